import { randomBytes } from 'node:crypto';
import type { WorkflowHandle } from '@temporalio/client';
import type { Command } from 'commander';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import { parseVerifyBackupInput, type VerifyBackupRequest } from '../domain/verify-input.js';
import type { VerifyBackupResult } from '../domain/verify-result.js';
import type { DiskHeartbeat, VerifyDiskProgress } from '../workflows/messages.js';
import { addCommand } from './command.js';
import { withTemporal, type Temporal } from './connect.js';
import { describeStart, followWorkflow, startWorkflow } from './follow-workflow.js';
import { formatTable, formatTime, printable, shortId } from './format.js';
import { shareDone } from './show-progress.js';
import { hasColours, print, type CommonOptions, type Output, type Terminal } from './terminal.js';
import type { DiskView } from './watch-workflow.js';

interface VerifyOptions extends CommonOptions {
  point?: string;
  hypervisor?: string;
  repository?: string;
  level?: string;
  all?: true;
  maxParallelDisks?: number | string;
  detach?: true;
}

export function addVerifyCommand(program: Command, terminal: Terminal): void {
  addCommand(
    program,
    'verify',
    'Look whether a restore point can be given back; Ctrl-C stops watching, not the verification',
    'verify web01 --level content',
  )
    .argument('[vm]', 'the name of a VM: its newest restore point (or give --point)')
    .option('--point <id>', 'the id of a restore point, or the beginning of it')
    .option('--all', 'every restore point of the VM')
    .option('--level <level>', 'structure, checksum or content: each looks at more (default: checksum)')
    .option('--hypervisor <name>', 'only of a VM of this hypervisor')
    .option('--repository <name>', 'only in this repository')
    .option('--max-parallel-disks <count>', 'disks at a time (default: 4)', (text) =>
      Number.isNaN(Number(text)) ? text : Number(text),
    )
    .option('--detach', 'start it, and do not wait for its end')
    .action(async (vm: string | undefined, options: VerifyOptions) => {
      const request = createRequest(vm, options);
      const found = await withTemporal(async (temporal) => {
        const handle = await start(temporal, request);
        if (options.detach) return { output: describeStart(handle) };
        const words = {
          title: `Verification of ${subjectOf(request)}`,
          ...{ noun: 'verification', nothingMade: 'what it had found until then is recorded', measure, diskLine },
        };
        const result = await followWorkflow<VerifyBackupResult, VerifyDiskProgress, VerifyDiskView>(
          terminal,
          temporal,
          handle,
          options,
          words,
        );
        return { output: describeResult(result, handle.workflowId, hasColours(terminal)), result };
      });
      print(terminal, options, found.output);
      if (found.result?.damaged) throw damageIn(found.result);
    });
}

/** The workflow's input with only what was given. @throws BackupError InvalidInput, which names every problem at once */
function createRequest(vm: string | undefined, options: VerifyOptions): VerifyBackupRequest {
  const { point, hypervisor, repository, level, all, maxParallelDisks } = options;
  const given = { point, vm, hypervisor, repository, level, all, maxParallelDisks };
  const request = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  parseVerifyBackupInput(request);
  return request;
}

const subjectOf = ({ vm, point, all }: VerifyBackupRequest) =>
  vm === undefined ? `point ${printable(point ?? '')}` : `${all ? 'all points of ' : ''}VM ${printable(vm)}`;

/** Each verification has an id of its own: they only read, and may run side by side. */
async function start(temporal: Temporal, input: VerifyBackupRequest): Promise<WorkflowHandle> {
  const workflowId = `verify-backup/${input.vm ?? input.point ?? ''}/${randomBytes(4).toString('hex')}`;
  const summary = `Verify ${subjectOf(input)}`;
  const handle = await startWorkflow(temporal, { type: 'VerifyBackup', workflowId, input, summary });
  if (!handle) throw new BackupError('AlreadyExists', `Workflow '${workflowId}' runs already; try again`);
  return handle;
}

type VerifyDiskView = Omit<VerifyDiskProgress, 'phase'> & DiskView;

function measure(disk: VerifyDiskProgress, heartbeat: DiskHeartbeat | undefined): VerifyDiskView {
  const current = disk.phase === 'verifying' ? heartbeat : undefined;
  const phase = current?.phase ?? disk.phase;
  return { ...disk, phase, doneBytes: current?.doneBytes ?? 0, totalBytes: current?.totalBytes ?? disk.fileBytes };
}

function diskLine(disk: VerifyDiskView): string {
  const { target, phase, files, fileBytes } = disk;
  const line = `${printable(target)}  ${phase}`;
  const isRunning = phase === 'checking' || phase === 'comparing';
  return isRunning ? `${line}  ${shareDone(disk)}` : `${line}  ${files} file(s), ${formatBytes(fileBytes)}`;
}

function describeResult(result: VerifyBackupResult, workflowId: string, colours: boolean): Output {
  const rows = result.files.map(({ pointId, pointTime, target, fileBytes, comparedBlocks, damage }) => [
    ...[shortId(pointId), formatTime(new Date(pointTime)), target, formatBytes(fileBytes)],
    ...[comparedBlocks === null ? '' : String(comparedBlocks), damage ?? 'good'],
  ]);
  const headings = ['POINT', 'TIME', 'DISK', 'FILE', 'BLOCKS', 'FOUND'];
  const table = formatTable(headings, rows, { right: ['FILE', 'BLOCKS'], colours });
  const verdict = result.damaged ? 'damage was found' : 'no damage was found';
  const points = `${result.points.length} restore point(s) of VM ${printable(result.vm)} in ${result.repository}`;
  return {
    document: { workflowId, ...result },
    text: `${points}, ${result.fileCount} file(s), level ${result.level}: ${verdict}\n\n${table}`,
  };
}

/** The command fails where the workflow does not: a script that only looks at the exit code must hear of damage. */
function damageIn({ vm, points, files }: VerifyBackupResult): BackupError {
  const damaged = points.filter((point) => point.damaged).length;
  const first = files.find(({ damage }) => damage !== null);
  return new BackupError(
    'PointDamaged',
    `Expected ${points.length} restore point(s) of VM '${vm}' without damage, found ${damaged} damaged: ${first?.damage ?? ''}; the next backup is a full`,
  );
}
