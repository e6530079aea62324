import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { readConfig } from '../config/config.js';
import { formatBytes } from '../domain/format-bytes.js';
import type { ReconcileHostResult } from '../workflows/reconcile-host.js';
import { mainQueue } from '../workflows/messages.js';
import { addCommand } from './command.js';
import { withTemporal } from './connect.js';
import { describeWorkflowFailure } from './failure.js';
import { formatTable, printable, shortId } from './format.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface ReconcileOptions extends CommonOptions {
  host?: string;
  dryRun?: true;
}

export function addReconcileCommand(program: Command, terminal: Terminal): void {
  addCommand(
    program,
    'reconcile',
    'Clean up after workflows that were terminated or timed out, and show what nobody owns',
    'reconcile --dry-run',
  )
    .option('--host <host>', 'whose backups (default: this machine)')
    .option('--dry-run', 'only say what it would do, and why')
    .action(async (options: ReconcileOptions) => {
      const host = options.host ?? readConfig(terminal.env).host;
      const workflowId = `reconcile/${host}/${randomUUID()}`; // beside the schedule's: both are safe at any time
      const result = await withTemporal(async ({ client }) => {
        try {
          return (await client.workflow.execute('ReconcileHost', {
            taskQueue: mainQueue,
            workflowId,
            args: [{ host, dryRun: options.dryRun === true, survey: true }],
          })) as ReconcileHostResult;
        } catch (error) {
          throw describeWorkflowFailure(error, workflowId, 'the next one does what is left');
        }
      });
      print(terminal, options, { document: result, text: describe(result, hasColours(terminal)) });
    });
}

function describe(result: ReconcileHostResult, colours: boolean): string {
  const { host, orphans, orphanedLeases, problems } = result;
  const found = listFound(result);
  const foundTable = formatTable(['FOUND, LEFT ALONE', 'WHERE', 'WHY'], found, { colours });
  return [
    orphans.length + orphanedLeases.length === 0
      ? `Nothing to clean up on host '${host}'`
      : orphanTable(result, colours),
    ...(found.length === 0 ? [] : ['', foundTable]),
    ...moreLines(result),
    ...problems.map((problem) => printable(`Warning: ${problem}`)),
  ].join('\n');
}

function orphanTable({ orphans, orphanedLeases }: ReconcileHostResult, colours: boolean): string {
  const rows = [
    ...orphans.map((orphan) => ({ ...orphan, what: `backup ${shortId(orphan.jobId)}` })),
    ...orphanedLeases.map((orphan) => ({ ...orphan, what: `${orphan.purpose} ${shortId(orphan.leaseId)}`, ports: [] })),
  ].map(({ vm, what, workflowId, runState, ports, outcome }) => [
    vm,
    what,
    workflowId,
    runState,
    ports.join(', ') || '-',
    outcome,
  ]);
  return formatTable(['VM', 'WHAT', 'WORKFLOW', 'ITS RUN', 'PORTS', 'OUTCOME'], rows, { colours });
}

function listFound({ unknownExports, unknownFiles, changedFiles }: ReconcileHostResult): string[][] {
  const exports = unknownExports?.first ?? [];
  const files = unknownFiles?.first ?? [];
  const changed = changedFiles?.first ?? [];
  return [
    ...exports.map(({ pid, port, socket, exportName, file }) => [
      `qemu-nbd, pid ${pid}`,
      `${port === null ? `socket ${socket}` : `port ${port}`}, export '${exportName}', ${file}`,
      'no lease',
    ]),
    ...files.map(({ repository, path, fileBytes }) => [
      `file, ${formatBytes(fileBytes)}`,
      `${path} in ${repository}`,
      'no restore point, no backup that runs',
    ]),
    ...changed.map(({ repository, vm, jobId, path, expectedBytes, foundBytes }) => [
      `restore point ${shortId(jobId)} of ${vm}`,
      `${path} in ${repository}`,
      foundBytes === null ? 'file is missing' : `file has ${foundBytes} bytes, sealed with ${expectedBytes}`,
    ]),
  ];
}

/** For each kind of which there are too many to show. */
function moreLines({ unknownExports, unknownFiles, changedFiles }: ReconcileHostResult): string[] {
  const kinds = {
    'qemu-nbd without lease': unknownExports,
    'unknown files': unknownFiles,
    'changed files': changedFiles,
  };
  return Object.entries(kinds).flatMap(([what, found]) =>
    found && found.count > found.first.length ? [`… ${found.count - found.first.length} more ${what}`] : [],
  );
}
