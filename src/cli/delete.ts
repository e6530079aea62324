import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { parseDeleteBackupInput, type DeleteBackupRequest } from '../domain/delete-input.js';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import type { DeleteBackupResult } from '../workflows/delete-backup.js';
import { addCommand } from './command.js';
import { withTemporal, type Temporal } from './connect.js';
import { describeStart, followSteps, howToCancel, startWorkflow } from './follow-workflow.js';
import { formatTable, formatTime, printable, shortId } from './format.js';
import { hasColours, print, type CommonOptions, type Output, type Terminal } from './terminal.js';

interface DeleteOptions extends CommonOptions {
  point?: string;
  all?: true;
  hypervisor?: string;
  repository?: string;
  descendants?: string;
  dryRun?: true;
  yes?: true;
  detach?: true;
}

export function addDeleteCommand(program: Command, terminal: Terminal): void {
  addCommand(
    program,
    'delete',
    'Delete a restore point, or all backups of a VM in a repository',
    'delete --point 3f2a91c0 --descendants merge --dry-run',
  )
    .argument('[vm]', 'the name of a VM; with --all, everything of it goes')
    .option('--point <id>', 'the restore point: its id, or the beginning of it')
    .option('--all', 'all restore points of the VM in the repository, and what is recorded of its backups')
    .option('--hypervisor <name>', 'where the VM runs')
    .option('--repository <name>', 'where the backups are')
    .option(
      '--descendants <reaction>',
      'refuse, delete or merge: what becomes of restore points that need it (default: refuse)',
    )
    .option('--dry-run', 'only say what would be deleted')
    .option('--yes', 'required to delete: nobody is asked')
    .option('--detach', 'start it, and do not wait for its end')
    .action(async (vm: string | undefined, options: DeleteOptions) => {
      const request = createRequest(vm, options);
      const output = await withTemporal(async (temporal) => {
        if (options.dryRun) return describeResult(await preview(terminal, temporal, request, options), terminal);
        if (!options.yes) throw await refusal(terminal, temporal, request, options);
        const handle = await start(temporal, request, workflowIdOf(request));
        if (options.detach) return describeStart(handle);
        return describeResult(await follow(terminal, temporal, handle, request, options), terminal);
      });
      print(terminal, options, output);
    });
}

/** The workflow's input with only what was given. @throws BackupError InvalidInput */
function createRequest(vm: string | undefined, options: DeleteOptions): DeleteBackupRequest {
  const { point, all, hypervisor, repository, descendants } = options;
  const given = { point, vm, all, hypervisor, repository, descendants };
  const request: unknown = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  parseDeleteBackupInput(request);
  return request as DeleteBackupRequest;
}

function workflowIdOf({ point, vm }: DeleteBackupRequest): string {
  return `delete-backup/${point ?? vm ?? ''}`;
}

function whatOf({ point, vm }: DeleteBackupRequest): string {
  return printable(point === undefined ? `all backups of VM ${vm ?? ''}` : `restore point ${point}`);
}

/** @throws BackupError InUse when it runs already; TemporalUnreachable */
async function start(temporal: Temporal, input: DeleteBackupRequest, workflowId: string) {
  const summary = `Delete ${whatOf(input)}`;
  const handle = await startWorkflow(temporal, { type: 'DeleteBackup', workflowId, input, summary });
  if (handle) return handle;
  throw new BackupError(
    'InUse',
    `Workflow '${workflowId}' is running already; wait for it, or end it: ${howToCancel(workflowId)}`,
  );
}

async function preview(
  terminal: Terminal,
  temporal: Temporal,
  request: DeleteBackupRequest,
  options: DeleteOptions,
): Promise<DeleteBackupResult> {
  const input = { ...request, dryRun: true };
  const handle = await start(temporal, input, `${workflowIdOf(request)}/dry-run/${randomUUID()}`); // beside any other
  return follow(terminal, temporal, handle, input, options);
}

function follow(
  terminal: Terminal,
  temporal: Temporal,
  handle: Parameters<typeof followSteps>[2],
  request: DeleteBackupRequest,
  options: DeleteOptions,
): Promise<DeleteBackupResult> {
  const title = `Delete ${whatOf(request)}${request.dryRun ? ', dry run' : ''}`;
  const words = { title, noun: 'deletion', nothingMade: 'nothing was deleted' };
  return followSteps<DeleteBackupResult>(terminal, temporal, handle, options, words);
}

/** What is asked for cannot be undone, so it has to be said in so many words. */
async function refusal(
  terminal: Terminal,
  temporal: Temporal,
  request: DeleteBackupRequest,
  options: DeleteOptions,
): Promise<BackupError> {
  const { points, vm, repository } = await preview(terminal, temporal, request, { ...options, json: true });
  const names = points.map(({ jobId, pointTime }) => `${shortId(jobId)} of ${formatTime(new Date(pointTime))}`);
  return new BackupError(
    'InvalidInput',
    `Nothing was deleted. It would take ${points.length} restore point(s) of VM '${vm}' in repository '${repository}'${
      names.length > 0 ? `: ${names.join(', ')}` : ''
    }; see them with --dry-run, delete them with --yes`,
  );
}

function describeResult(result: DeleteBackupResult, terminal: Terminal): Output {
  const { vm, repository, dryRun, all, points, warnings } = result;
  const rows = points.map(({ jobId, pointTime, fileBytes, mergedInto }) => [
    ...[shortId(jobId), formatTime(new Date(pointTime)), formatBytes(fileBytes)],
    mergedInto.length === 0 ? 'deleted' : `merged into ${mergedInto.map(shortId).join(', ')}`,
  ]);
  const headings = ['POINT', 'TIME', 'FILES', dryRun ? 'WOULD BE' : 'WAS'];
  const table = formatTable(headings, rows, { right: ['FILES'], colours: hasColours(terminal) });
  const verb = dryRun ? 'Would delete' : 'Deleted';
  const what = all ? `all backups of VM '${vm}' in repository '${repository}'` : `of VM '${vm}' in '${repository}'`;
  return {
    document: result,
    text: [
      `${verb} ${points.length} restore point(s): ${what}`,
      ...(rows.length > 0 ? ['', table] : []),
      ...warnings.map((warning) => `Warning: ${printable(warning)}`),
    ].join('\n'),
  };
}
