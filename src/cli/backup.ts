import type { WorkflowHandle } from '@temporalio/client';
import { Option, type Command } from 'commander';
import { parseBackupVMInput, type BackupVMRequest } from '../domain/backup-input.js';
import { BackupError } from '../domain/errors.js';
import type { BackupVMResult } from '../domain/result.js';
import type { DiskHeartbeat, DiskProgress } from '../workflows/messages.js';
import { formatBytes } from '../domain/format-bytes.js';
import { addCommand } from './command.js';
import { withTemporal, type Temporal } from './connect.js';
import { describeStart, followWorkflow, howToCancel, startWorkflow } from './follow-workflow.js';
import { formatTable, printable } from './format.js';
import { describeReason } from './show-job.js';
import { shareDone } from './show-progress.js';
import { hasColours, print, type CommonOptions, type Output, type Terminal } from './terminal.js';
import type { DiskView } from './watch-workflow.js';

interface BackupOptions extends CommonOptions {
  hypervisor?: string;
  repository?: string;
  type?: string;
  disk?: string[];
  quiesce?: string;
  onLostChangeId?: string;
  maxChainLength?: number | string;
  maxParallelDisks?: number | string;
  compare?: true;
  allowIothreads?: true;
  allowPlaintext?: true;
  detach?: true;
}

export function addBackupCommand(program: Command, terminal: Terminal): void {
  addCommand(
    program,
    'backup',
    'Back up a VM and show the progress; Ctrl-C stops watching, not the backup',
    'backup web01 --repository main',
  )
    .argument('<vm>', 'the name of a VM')
    .option('--hypervisor <name>', 'where the VM runs (default: the only one registered)')
    .option('--repository <name>', 'where to keep the backup (default: the only one registered)')
    .option('--type <type>', 'auto, full or incremental (default: auto)')
    .addOption(
      new Option('--disk <key>', 'key or target of a disk; give it again for more (default: all)').argParser(
        (key: string, keys: string[] | undefined) => [...(keys ?? []), key],
      ),
    )
    .option('--quiesce <mode>', 'auto, require or off: freeze the file systems in the guest (default: auto)')
    .option('--on-lost-change-id <reaction>', 'full or fail: when the hypervisor forgot what changed (default: full)')
    .option(
      '--max-chain-length <count>',
      'a full when a restore would read more files than this (default: no limit)',
      readNumber,
    )
    .option('--max-parallel-disks <count>', 'disks at a time (default: 4)', readNumber)
    .option('--compare', 'compare each copy with its source before the snapshot is closed')
    .option('--allow-iothreads', 'read disks that have an iothread, although this QEMU may crash the guest')
    .option('--allow-plaintext', 'back up encrypted disks too; their backups are not encrypted')
    .option('--detach', 'start it, and do not wait for its end')
    .action(async (vm: string, options: BackupOptions) => {
      const request = createRequest(vm, options);
      const output = await withTemporal(async (temporal) => {
        const handle = await startBackup(temporal, request);
        if (options.detach) return describeStart(handle, `look at it with 'backupvm job list', `);
        const words = {
          title: `Backup of VM ${printable(vm)}`,
          noun: 'backup',
          nothingMade: 'no restore point was made',
          measure,
          diskLine,
        };
        const result = await followWorkflow<BackupVMResult, DiskProgress, BackupDiskView>(
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

/** What is no number stays as it was written, for the workflow's own check to name. */
const readNumber = (text: string) => (Number.isNaN(Number(text)) ? text : Number(text));

/** The workflow's input with only what was given. @throws BackupError InvalidInput, which names every problem at once */
function createRequest(vm: string, options: BackupOptions): BackupVMRequest {
  const { hypervisor, repository, type, disk: disks, quiesce, onLostChangeId, compare } = options;
  const { maxChainLength, maxParallelDisks, allowIothreads, allowPlaintext } = options;
  const limits = { maxChainLength, maxParallelDisks, compare, allowIothreads, allowPlaintext };
  const plan = { type, disks, quiesce, onLostChangeId, ...limits };
  const all = { vm, hypervisor, repository, ...plan };
  const request = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  parseBackupVMInput(request);
  return request as unknown as BackupVMRequest;
}

/** @throws BackupError BackupAlreadyRunning, TemporalUnreachable */
async function startBackup(temporal: Temporal, request: BackupVMRequest): Promise<WorkflowHandle> {
  const workflowId = `backup-vm/${request.vm}`;
  const summary = `Back up ${printable(request.vm)}`;
  const handle = await startWorkflow(temporal, { type: 'BackupVM', workflowId, input: request, summary });
  if (handle) return handle;
  throw new BackupError(
    'BackupAlreadyRunning',
    `A backup of VM '${request.vm}' is running already; wait for it, or end it: ${howToCancel(workflowId)}`,
  );
}

export type BackupDiskView = DiskProgress & DiskView;

function measure(disk: DiskProgress, heartbeat: DiskHeartbeat | undefined): BackupDiskView {
  const current = isRead(disk.phase) ? heartbeat : undefined;
  const isDone = disk.phase === 'copied' || disk.phase === 'complete';
  return {
    ...disk,
    doneBytes: current?.doneBytes ?? (isDone ? disk.changedBytes : 0),
    totalBytes: current?.totalBytes ?? disk.changedBytes,
  };
}

/** One disk in one line: `vda  full (the first backup of this VM)  copying  45 %, 1.2 GiB of 2.6 GiB`. */
export function diskLine(disk: BackupDiskView): string {
  const { target, type, reason, phase, totalBytes } = disk;
  const plan = `${printable(target)}  ${type} (${describeReason(reason)})  ${phase}`;
  if (phase === 'copied' || phase === 'complete') return `${plan}  ${formatBytes(totalBytes)}`;
  return isRead(phase) && totalBytes > 0 ? `${plan}  ${shareDone(disk)}` : plan;
}

/** Whether a step runs that says how far it is. */
const isRead = (phase: string) => phase === 'copying' || phase === 'comparing';

function describeResult(result: BackupVMResult, workflowId: string, colours: boolean): Output {
  const headings = ['DISK', 'TYPE', 'REASON', 'SIZE', 'CHANGED', 'WRITTEN', 'PATH'];
  const rows = result.disks.map(({ key, type, reason, sizeBytes, changedBytes, writtenBytes, path }) => [
    ...[key, type, describeReason(reason)],
    ...[formatBytes(sizeBytes), formatBytes(changedBytes), formatBytes(writtenBytes), path],
  ]);
  const warnings = result.warnings.map((warning) => `Warning: ${printable(warning)}`);
  const table = formatTable(headings, rows, { right: ['SIZE', 'CHANGED', 'WRITTEN'], colours });
  return {
    document: { workflowId, ...result },
    text: [`Restore point ${result.jobId}, consistency: ${result.consistency}`, ...warnings, '', table].join('\n'),
  };
}
