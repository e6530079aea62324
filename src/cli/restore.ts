import { randomBytes } from 'node:crypto';
import type { WorkflowHandle } from '@temporalio/client';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import { parseRestoreVMInput, type RestoreVMRequest } from '../domain/restore-input.js';
import type { KeptFile, RestoreVMResult } from '../domain/restore-result.js';
import type { DiskHeartbeat, RestoreDiskProgress } from '../workflows/messages.js';
import { addCommand } from './command.js';
import { withTemporal, type Temporal } from './connect.js';
import { describeStart, followWorkflow, startWorkflow } from './follow-workflow.js';
import { formatTable, formatTime, printable } from './format.js';
import { shareDone } from './show-progress.js';
import { hasColours, print, type CommonOptions, type Output, type Terminal } from './terminal.js';
import type { DiskView } from './watch-workflow.js';

interface RestoreOptions extends CommonOptions {
  point?: string;
  at?: string;
  hypervisor?: string;
  repository?: string;
  disk?: string[];
  to?: string;
  format?: string;
  asVm?: string;
  on?: string;
  start?: true;
  inPlace?: true;
  overwrite?: true;
  allowDamaged?: true;
  keepReplaced?: string;
  maxParallelDisks?: number | string;
  detach?: true;
}

export function addRestoreCommand(program: Command, terminal: Terminal): void {
  addCommand(
    program,
    'restore',
    'Bring a restore point back, as files, as a new VM or in place; Ctrl-C stops watching, not the restore',
    'restore web01 --to /var/restore',
  )
    .argument('[vm]', 'the name of a VM: its newest restore point (or give --point)')
    .option('--point <id>', 'the id of a restore point, or the beginning of it')
    .option('--at <time>', `the newest restore point at or before a time, such as '2026-11-23 01:45'`, parseTime)
    .option('--hypervisor <name>', 'only of a VM of this hypervisor')
    .option('--repository <name>', 'only from this repository')
    .addOption(
      new Option('--disk <key>', 'key or target of a disk; give it again for more (default: all)').argParser(
        (key: string, keys: string[] | undefined) => [...(keys ?? []), key],
      ),
    )
    .option('--to <directory>', `where the files go, on the repository's host`)
    .option('--format <format>', 'qcow2 or raw (default: qcow2)')
    .option('--as-vm <name>', 'also define a new VM with these disks')
    .option('--on <hypervisor>', 'where to define it (default: where it was backed up)')
    .option('--start', 'start the new VM')
    .option('--in-place', `replace the VM's own disks; it must be shut off`)
    .option('--overwrite', 'replace files, and a VM of that name that is shut off')
    .option('--allow-damaged', 'restore what is left of a damaged point')
    .option(
      '--keep-replaced <time>',
      `how long replaced files are kept, such as '24h' or '7d', or 'none' (default: 24h in place, none with --overwrite)`,
    )
    .option('--max-parallel-disks <count>', 'disks at a time (default: 4)', (text) =>
      Number.isNaN(Number(text)) ? text : Number(text),
    )
    .option('--detach', 'start it, and do not wait for its end')
    .action(async (vm: string | undefined, options: RestoreOptions) => {
      const request = createRequest(vm, options);
      const output = await withTemporal(async (temporal) => {
        const handle = await start(temporal, request);
        if (options.detach) return describeStart(handle);
        const words = {
          title: `Restore of ${subjectOf(request)}`,
          ...{ noun: 'restore', nothingMade: 'nothing was restored', measure, diskLine },
        };
        const result = await followWorkflow<RestoreVMResult, RestoreDiskProgress, RestoreDiskView>(
          terminal,
          temporal,
          handle,
          options,
          words,
        );
        return describeResult(result, handle.workflowId, hasColours(terminal));
      });
      print(terminal, options, output);
    });
}

/** A time of this machine's zone, unless it names another one. */
function parseTime(text: string): string {
  const time = new Date(text);
  if (/^\d{4}-\d\d-\d\d[ T]\d\d:\d\d/.test(text) && !Number.isNaN(time.getTime())) return time.toISOString();
  throw new InvalidArgumentError(`Expected a time such as '2026-11-23 01:45'.`);
}

/** The workflow's input with only what was given. @throws BackupError InvalidInput, which names every problem at once */
function createRequest(vm: string | undefined, options: RestoreOptions): RestoreVMRequest {
  const { point, at, hypervisor, repository, disk: disks, overwrite, allowDamaged, maxParallelDisks } = options;
  const { keepReplaced } = options;
  const all = {
    ...{ point, vm, at, hypervisor, repository, disks, target: targetOf(options) },
    ...{ overwrite, allowDamaged, keepReplaced, maxParallelDisks },
  };
  const request = withoutUndefined(all);
  parseRestoreVMInput(request);
  return request as unknown as RestoreVMRequest;
}

function targetOf({ to: directory, format, asVm, on, start, inPlace }: RestoreOptions): object {
  const targets = [directory !== undefined || asVm !== undefined, inPlace === true].filter(Boolean);
  if (targets.length !== 1) {
    const found = targets.length === 0 ? 'neither' : 'both';
    throw new BackupError(
      'InvalidInput',
      `restore: expected either --to or --in-place, found ${found}; see 'backupvm restore --help'`,
    );
  }
  if (inPlace) return withoutUndefined({ kind: 'in-place', format, start, hypervisor: on });
  if (asVm === undefined) return withoutUndefined({ kind: 'files', directory, format, start, hypervisor: on });
  return withoutUndefined({ kind: 'vm', name: asVm, directory, format, start, hypervisor: on });
}

function withoutUndefined(values: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

const subjectOf = ({ vm, point }: RestoreVMRequest) =>
  vm === undefined ? `point ${printable(point ?? '')}` : `VM ${printable(vm)}`;

/** Each restore has an id of its own: several of one VM, to several places, may run at once. */
async function start(temporal: Temporal, input: RestoreVMRequest): Promise<WorkflowHandle> {
  const workflowId = `restore-vm/${input.vm ?? input.point ?? ''}/${randomBytes(4).toString('hex')}`;
  const summary = `Restore ${subjectOf(input)}`;
  const handle = await startWorkflow(temporal, { type: 'RestoreVM', workflowId, input, summary });
  if (!handle) throw new BackupError('AlreadyExists', `Workflow '${workflowId}' runs already; try again`);
  return handle;
}

type RestoreDiskView = Omit<RestoreDiskProgress, 'phase'> & DiskView;

/** Progress goes from nothing to all twice: as the disk is written, and as it is read back. */
function measure(disk: RestoreDiskProgress, heartbeat: DiskHeartbeat | undefined): RestoreDiskView {
  const current = disk.phase === 'writing' ? heartbeat : undefined;
  const phase = current?.phase ?? disk.phase;
  return { ...disk, phase, doneBytes: current?.doneBytes ?? 0, totalBytes: current?.totalBytes ?? disk.sizeBytes };
}

function diskLine(disk: RestoreDiskView): string {
  const { target, phase, totalBytes, writtenBytes } = disk;
  const line = `${printable(target)}  ${phase}`;
  if (phase === 'written' || phase === 'complete') return `${line}  ${formatBytes(writtenBytes)}`;
  return (phase === 'writing' || phase === 'verifying') && totalBytes > 0 ? `${line}  ${shareDone(disk)}` : line;
}

function describeResult(result: RestoreVMResult, workflowId: string, colours: boolean): Output {
  const headings = ['DISK', 'FORMAT', 'SIZE', 'WRITTEN', 'VERIFIED', 'FILE'];
  const rows = result.disks.map(
    ({ target, format, sizeBytes, writtenBytes, verifiedBlocks, differentBlocks, path }) => [
      ...[target, format, formatBytes(sizeBytes), formatBytes(writtenBytes)],
      ...[
        differentBlocks === 0 ? `${verifiedBlocks} blocks` : `${differentBlocks} of ${verifiedBlocks} blocks differ`,
        path,
      ],
    ],
  );
  const table = formatTable(headings, rows, { right: ['SIZE', 'WRITTEN'], colours });
  const vm = result.vm ? `, VM ${printable(result.vm.name)} (${result.vm.id})` : '';
  return {
    document: { workflowId, ...result },
    text: [
      `Restored point ${result.pointId} of ${formatTime(new Date(result.pointTime))}${vm}\n\n${table}`,
      ...result.kept.map((kept) => printable(keptText(kept))),
      ...result.warnings.map((warning) => `Warning: ${printable(warning)}`),
    ].join('\n'),
  };
}

function keptText({ path, keptPath, keptUntil }: KeptFile): string {
  return `Kept what was at ${path} as ${keptPath} until ${formatTime(new Date(keptUntil))}; see 'backupvm kept list'`;
}
