import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import type { Database } from '../db/database.js';
import { findInstallation } from '../db/installations.js';
import { formatBytes } from '../domain/format-bytes.js';
import { wrongNamespace } from '../domain/namespace.js';
import type { ReconcileHostResult } from '../workflows/reconcile-host.js';
import { mainQueue } from '../workflows/messages.js';
import { addCommand } from './command.js';
import { describeNamespace } from '../temporal-namespace.js';
import { withDatabase, withTemporal, type Temporal } from './connect.js';
import { describeWorkflowFailure } from './failure.js';
import { formatTable, formatTime, printable, shortId } from './format.js';
import { loseNamespace } from './lose-namespace.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface ReconcileOptions extends CommonOptions {
  host?: string;
  dryRun?: true;
  lostNamespace?: string;
  yes?: true;
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
    .option(
      '--lost-namespace <id>',
      'give up a Temporal namespace that is gone for good, and clean up after all its runs',
    )
    .option('--yes', 'required to give up a namespace: nobody is asked')
    .action(async (options: ReconcileOptions) => {
      if (options.lostNamespace !== undefined) return loseNamespace(terminal, options.lostNamespace, options);
      const result = await withDatabase(terminal, (db, config) =>
        withTemporal((temporal) => reconcile(db, temporal, options.host ?? config.host, options)),
      );
      print(terminal, options, { document: result, text: describe(result, hasColours(terminal)) });
    });
}

/** In the namespace that the database belongs to: in another one no worker takes it. @throws BackupError WrongNamespace */
async function reconcile(
  db: Database,
  { client, connection, namespace, address }: Temporal,
  host: string,
  { dryRun }: ReconcileOptions,
): Promise<ReconcileHostResult> {
  const [found, recorded] = [
    await describeNamespace(connection, { name: namespace, address }),
    await findInstallation(db),
  ];
  if (recorded && recorded.namespaceId !== found.id) throw wrongNamespace(recorded, found);
  const workflowId = `reconcile/${host}/${randomUUID()}`; // next to the schedule's: both are safe at any time
  try {
    return (await client.workflow.execute('ReconcileHost', {
      taskQueue: mainQueue,
      workflowId,
      args: [{ host, dryRun: dryRun === true, survey: true }],
    })) as ReconcileHostResult;
  } catch (error) {
    throw describeWorkflowFailure(error, workflowId, 'the next one does what is left');
  }
}

function describe(result: ReconcileHostResult, colours: boolean): string {
  const { host, orphans, orphanedLeases, leftAlone, problems } = result;
  const found = [...listLeftAlone(leftAlone), ...listFound(result)];
  const foundTable = formatTable(['FOUND, LEFT ALONE', 'WHERE', 'WHY'], found, { colours });
  return [
    orphans.length + orphanedLeases.length === 0
      ? `Nothing to clean up on host '${host}'`
      : orphanTable(result, colours),
    ...(found.length === 0 ? [] : ['', foundTable]),
    ...moreLines(result),
    ...keptLines(result),
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

function listLeftAlone(leftAlone: ReconcileHostResult['leftAlone']): string[][] {
  return leftAlone.map((left) => {
    const what = 'jobId' in left ? `backup ${shortId(left.jobId)}` : `${left.purpose} ${shortId(left.leaseId)}`;
    return [`${what} of ${left.vm}`, `workflow ${left.workflowId}`, left.leftBecause ?? ''];
  });
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

/** The disks that restores replaced: what was removed, what stays until when, and what could not be removed. */
function keptLines({ keptDisks }: ReconcileHostResult): string[] {
  return (keptDisks ?? []).map(({ id, vm, keptPath, fileBytes, keptUntil, outcome }) => {
    const disk = `Replaced disk ${shortId(id)} of ${vm}, ${keptPath}, ${formatBytes(fileBytes)}`;
    const until = keptUntil === null ? 'its restore is done' : formatTime(new Date(keptUntil));
    return printable(outcome === 'kept' ? `${disk}: kept until ${until}` : `${disk}: ${outcome}`);
  });
}
