import { WorkflowExecutionAlreadyStartedError, type Client, type WorkflowHandle } from '@temporalio/client';
import { Option, type Command } from 'commander';
import { parseBackupVMInput, type BackupVMRequest } from '../domain/backup-input.js';
import { BackupError } from '../domain/errors.js';
import type { BackupVMResult } from '../domain/result.js';
import { mainQueue } from '../workflows/messages.js';
import { formatBytes } from '../domain/format-bytes.js';
import { addCommand } from './command.js';
import { withTemporal, type Temporal } from './connect.js';
import { describeWorkflowFailure } from './failure.js';
import { formatTable, printable } from './format.js';
import { describeReason } from './show-job.js';
import { createProgressDisplay } from './show-progress.js';
import { hasColours, Interrupted, print, type CommonOptions, type Output, type Terminal } from './terminal.js';
import { watchBackup } from './watch-backup.js';

interface BackupOptions extends CommonOptions {
  hypervisor?: string;
  repository?: string;
  type?: string;
  disk?: string[];
  quiesce?: string;
  onLostChangeId?: string;
  maxParallelDisks?: number | string;
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
    .option('--max-parallel-disks <count>', 'disks at a time (default: 4)', (text) =>
      Number.isNaN(Number(text)) ? text : Number(text),
    )
    .option('--detach', 'start it, and do not wait for its end')
    .action(async (vm: string, options: BackupOptions) => {
      const request = createRequest(vm, options);
      const output = await withTemporal(async (temporal) => {
        const handle = await startBackup(temporal, request);
        return options.detach ? describeStart(handle) : await follow(terminal, temporal.client, handle, options);
      });
      print(terminal, options, output);
    });
}

/** The workflow's input with only what was given. @throws BackupError InvalidInput, which names every problem at once */
function createRequest(vm: string, options: BackupOptions): BackupVMRequest {
  const { hypervisor, repository, type, disk: disks, quiesce, onLostChangeId, maxParallelDisks } = options;
  const all = { vm, hypervisor, repository, type, disks, quiesce, onLostChangeId, maxParallelDisks };
  const request = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  parseBackupVMInput(request);
  return request as unknown as BackupVMRequest;
}

/** @throws BackupError BackupAlreadyRunning, TemporalUnreachable */
async function startBackup(temporal: Temporal, request: BackupVMRequest): Promise<WorkflowHandle> {
  const workflowId = `backup-vm/${request.vm}`;
  try {
    return await temporal.client.workflow.start('BackupVM', {
      taskQueue: mainQueue,
      workflowId,
      args: [request],
      workflowIdConflictPolicy: 'FAIL', // the one that runs goes on
      workflowIdReusePolicy: 'ALLOW_DUPLICATE',
      staticSummary: `Back up ${printable(request.vm)}`,
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw refused(error, temporal);
    throw new BackupError(
      'BackupAlreadyRunning',
      `A backup of VM '${request.vm}' is running already; wait for it, or end it: ${howToCancel(workflowId)}`,
    );
  }
}

function refused(error: unknown, { connection, namespace }: Temporal): BackupError {
  const said =
    error instanceof Error ? `${error.message}${error.cause instanceof Error ? `: ${error.cause.message}` : ''}` : '';
  return new BackupError(
    'TemporalUnreachable',
    `Expected the Temporal server at ${connection.options.address} to start a workflow in namespace '${namespace}', found: ${said}`,
    { cause: error },
  );
}

async function follow(
  terminal: Terminal,
  client: Client,
  handle: WorkflowHandle,
  options: BackupOptions,
): Promise<Output> {
  const { workflowId } = handle;
  const display = createProgressDisplay(
    terminal,
    options,
    `Backup of VM ${printable(workflowId.replace('backup-vm/', ''))}`,
  );
  try {
    const result = await watchBackup(client, handle, { signal: terminal.onInterrupt(), show: display.show });
    await display.end('complete');
    return describeResult(result, workflowId, hasColours(terminal));
  } catch (error) {
    const isInterrupted = error instanceof Interrupted;
    await display.end(isInterrupted ? 'left' : 'failed');
    if (!isInterrupted) throw describeWorkflowFailure(error, workflowId);
    throw new Interrupted(
      `No longer watched; the backup goes on as workflow '${workflowId}'\n` +
        `  watch it:  temporal workflow show --follow --workflow-id ${quote(workflowId)}\n` +
        `  end it:    ${howToCancel(workflowId)}`,
    );
  }
}

function describeStart({ workflowId, firstExecutionRunId }: WorkflowHandle & { firstExecutionRunId?: string }): Output {
  return {
    document: { workflowId, runId: firstExecutionRunId },
    text: `Started workflow '${printable(workflowId)}'; look at it with 'backupvm job list', end it: ${howToCancel(workflowId)}`,
  };
}

function describeResult(result: BackupVMResult, workflowId: string, colours: boolean): Output {
  const headings = ['DISK', 'TYPE', 'REASON', 'SIZE', 'CHANGED', 'WRITTEN', 'PATH'];
  const rows = result.disks.map(({ key, type, reason, sizeBytes, changedBytes, writtenBytes, path }) => [
    ...[key, type, describeReason(reason)],
    ...[formatBytes(sizeBytes), formatBytes(changedBytes), formatBytes(writtenBytes), path],
  ]);
  const table = formatTable(headings, rows, { right: ['SIZE', 'CHANGED', 'WRITTEN'], colours });
  return {
    document: { workflowId, ...result },
    text: `Restore point ${result.jobId}, consistency: ${result.consistency}\n\n${table}`,
  };
}

function howToCancel(workflowId: string): string {
  return `temporal workflow cancel --workflow-id ${quote(workflowId)}`;
}

/** For people to paste into a shell. */
function quote(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll(`'`, `'\\''`)}'`;
}
