import type { WorkflowHandle } from '@temporalio/client';
import type { Command } from 'commander';
import { BackupError } from '../domain/errors.js';
import { parsePruneBackupsInput, type PruneBackupsRequest } from '../domain/prune-input.js';
import type { PruneBackupsResult, PrunedPoint, PrunedVM } from '../domain/prune-result.js';
import { describePolicy } from '../domain/retention-policy.js';
import { addCommand } from './command.js';
import { withTemporal, type Temporal } from './connect.js';
import { isErrorCode } from './failure.js';
import { describeStart, followWorkflow, howToCancel, startWorkflow } from './follow-workflow.js';
import { formatTable, formatTime, printable, shortId } from './format.js';
import { addPolicyOptions, readPolicyOptions, type PolicyOptions } from './policy-options.js';
import { hasColours, print, type CommonOptions, type Output, type Terminal } from './terminal.js';

interface PruneOptions extends CommonOptions, PolicyOptions {
  hypervisor?: string;
  repository?: string;
  dryRun?: true;
  detach?: true;
}

export function addPruneCommand(program: Command, terminal: Terminal): void {
  const command = addCommand(
    program,
    'prune',
    'Remove restore points that no rule of the policy keeps, of one VM or of all',
    'prune web01 --dry-run',
  )
    .argument('[vm]', 'the name of a VM (default: all VMs of the repository)')
    .option('--hypervisor <name>', 'only VMs of one hypervisor')
    .option('--repository <name>', 'where the backups are (default: the only one registered)');
  addPolicyOptions(command)
    .option('--dry-run', 'only say what would be removed, and by which rule')
    .option('--detach', 'start it, and do not wait for its end')
    .action(async (vm: string | undefined, options: PruneOptions) => {
      const request = createRequest(vm, options);
      await withTemporal(async (temporal) => {
        const handle = await startPrune(temporal, request);
        if (options.detach) return print(terminal, options, describeStart(handle));
        const words = {
          title: `Prune ${vm === undefined ? 'all VMs' : printable(vm)}`,
          noun: 'prune',
          nothingMade: 'what was not removed by then stays',
        };
        const display = {
          ...words,
          measure: () => ({ key: '', phase: '', doneBytes: 0, totalBytes: 0 }),
          diskLine: () => '',
        };
        const result = await followWorkflow<PruneBackupsResult, never, ReturnType<typeof display.measure>>(
          terminal,
          temporal,
          handle,
          options,
          display,
        );
        print(terminal, options, describeResult(result, handle.workflowId, hasColours(terminal)));
        requireSuccess(result);
      });
    });
}

/** The workflow's input with only what was given. A policy in the options replaces the stored one. @throws BackupError InvalidInput, NoPolicy */
function createRequest(vm: string | undefined, options: PruneOptions): PruneBackupsRequest {
  const { hypervisor, repository, dryRun } = options;
  const all = { vm, hypervisor, repository, policy: readPolicyOptions(options), dryRun };
  const request: PruneBackupsRequest = Object.fromEntries(
    Object.entries(all).filter(([, value]) => value !== undefined),
  );
  parsePruneBackupsInput(request);
  return request;
}

/** @throws BackupError InUse when it runs already; TemporalUnreachable */
async function startPrune(temporal: Temporal, input: PruneBackupsRequest): Promise<WorkflowHandle> {
  const workflowId = input.vm === undefined ? 'prune-backups' : `prune-backups/${input.vm}`;
  const summary = `Prune ${input.vm === undefined ? 'all VMs' : printable(input.vm)}`;
  const handle = await startWorkflow(temporal, { type: 'PruneBackups', workflowId, input, summary });
  if (handle) return handle;
  throw new BackupError(
    'InUse',
    `Workflow '${workflowId}' is running already; wait for it, or end it: ${howToCancel(workflowId)}`,
  );
}

function describeResult(result: PruneBackupsResult, workflowId: string, colours: boolean): Output {
  const texts = result.vms.map((vm) => vmText(vm, result, colours));
  return {
    document: { workflowId, ...result },
    text: texts.length === 0 ? `No backups in repository '${result.repository}'` : texts.join('\n\n'),
  };
}

function vmText(vm: PrunedVM, { repository, dryRun }: PruneBackupsResult, colours: boolean): string {
  const title = `VM ${printable(vm.vm)} in ${repository}`;
  if (vm.error) return `${title}: ${vm.error.message}`;
  const counts = `${vm.removed} ${dryRun ? 'would be removed' : 'removed'}, ${vm.kept} kept`;
  const policy = vm.policy ? describePolicy(vm.policy) : 'none';
  return [
    `${title}: ${counts}; policy: ${policy}`,
    ...(vm.points === null ? [] : [pointTable(vm.points, colours)]),
    ...vm.warnings.map((warning) => `Warning: ${warning}`),
  ].join('\n');
}

function pointTable(points: readonly PrunedPoint[], colours: boolean): string {
  const rows = points.map(({ id, time, decision, rule, reason }) => [
    ...[shortId(id), formatTime(new Date(time)), decision],
    ...[rule === 'none' ? '' : rule, reason],
  ]);
  return formatTable(['POINT', 'TIME', 'DECISION', 'RULE', 'WHY'], rows, { colours });
}

/** One VM's trouble is the command's, after all that was done has been printed. */
function requireSuccess({ vms }: PruneBackupsResult): void {
  const failed = vms.filter(({ error }) => error !== null);
  const [first] = failed;
  if (!first?.error) return;
  const { code, message } = first.error;
  const text = `${failed.length} of ${vms.length} VM(s) could not be pruned; VM '${first.vm}': ${message}`;
  throw isErrorCode(code) ? new BackupError(code, text) : new Error(text);
}
