import {
  ApplicationFailure,
  executeChild,
  isCancellation,
  ParentClosePolicy,
  TemporalFailure,
  workflowInfo,
} from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { PruneTargets } from '../activities/prune.js';
import { BackupError } from '../domain/errors.js';
import { parsePruneBackupsInput, type PruneBackupsRequest } from '../domain/prune-input.js';
import type { PruneBackupsResult, PrunedVM } from '../domain/prune-result.js';
import type { RetentionPolicy } from '../domain/retention.js';
import { applicationFailureIn, closingFailure, messageOf } from './failures.js';
import type { PruneVM } from './prune-vm.js';
import { startStepReport } from './report.js';
import { jobSteps } from './steps.js';

/** VMs at a time. One that waits for a restore of hours does not hold up all others. */
const lanes = 4;
/** A result may have 2 MiB; a point takes about 200 bytes of it. */
const mostPoints = 5_000;

/**
 * Removes expired restore points of one VM, or of all VMs of a repository: by the policy of the input, or else by each VM's own.
 * One child workflow per VM, so that the history stays short, and one VM's trouble does not keep the others waiting: it is
 * in the result. Fails when no VM could be pruned. With `dryRun` it only says what it would remove.
 */
export async function PruneBackups(request: PruneBackupsRequest = {}): Promise<PruneBackupsResult> {
  try {
    const { vm, hypervisor, repository, policy, dryRun } = parsePruneBackupsInput(request);
    const say = startStepReport(`Prune ${vm ?? 'all VMs'}`);
    const targets = await jobSteps.lookUpPruneTargets({ vm, hypervisor, repository });
    const vms = targets.vms.map((found) => ({ ...found, policy: policy ?? found.policy }));
    requirePolicy(targets.repository, vms);
    const pruned = await pruneEach(targets.host, vms, dryRun, say);
    const [first] = pruned;
    if (first?.error && pruned.every(({ error }) => error !== null)) {
      throw ApplicationFailure.nonRetryable(first.error.message, first.error.code);
    }
    return { repository: targets.repository, dryRun, vms: withinLimit(pruned) };
  } catch (error) {
    throw closingFailure(error);
  }
}

/** @throws BackupError NoPolicy when there is none for any VM */
function requirePolicy(repository: string, vms: PruneTargets['vms']): void {
  if (vms.length === 0 || vms.some(({ policy }) => policy !== null)) return;
  const names = vms.map(({ vm }) => `'${vm}'`).join(', ');
  throw new BackupError(
    'NoPolicy',
    `Expected a retention policy for ${names} in repository '${repository}', found none; set one with 'backupvm policy set', or give one in the field 'policy'`,
  );
}

async function pruneEach(
  host: string,
  vms: PruneTargets['vms'],
  dryRun: boolean,
  say: (step: string) => void,
): Promise<PrunedVM[]> {
  const waiting = [...vms.entries()];
  const pruned: PrunedVM[] = [];
  let done = 0;
  const lane = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [index, { contextId, vm, policy }] = next;
      const target = { contextId, vm, host };
      pruned[index] = policy === null ? withoutPolicy(target) : await pruneOne({ ...target, policy, dryRun });
      done += 1;
      say(`${done} of ${vms.length} VM(s)`);
    }
  };
  say(`0 of ${vms.length} VM(s)`);
  const ends = await Promise.allSettled(Array.from({ length: Math.min(lanes, vms.length) }, lane));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  return pruned;
}

function withoutPolicy({ contextId, vm }: { contextId: string; vm: string }): PrunedVM {
  const error = { code: 'NoPolicy', message: `Expected a retention policy for VM '${vm}', found none` };
  return {
    ...{ vm, contextId, policy: null, workflowId: null, kept: 0, removed: 0, points: null, warnings: [] },
    error,
  };
}

async function pruneOne(input: {
  contextId: string;
  vm: string;
  host: string;
  policy: RetentionPolicy;
  dryRun: boolean;
}): Promise<PrunedVM> {
  const { contextId, vm, policy } = input;
  const workflowId = `${workflowInfo().workflowId}/${contextId}`;
  try {
    const { points, warnings } = await executeChild<typeof PruneVM>('PruneVM', {
      workflowId,
      args: [input],
      // It cleans up after itself, also where this workflow is terminated.
      parentClosePolicy: ParentClosePolicy.REQUEST_CANCEL,
      staticSummary: `Prune ${vm}`,
    });
    const kept = points.filter(({ decision }) => decision === 'keep').length;
    return { vm, contextId, policy, workflowId, kept, removed: points.length - kept, points, warnings, error: null };
  } catch (error) {
    if (isCancellation(error) || !(error instanceof TemporalFailure)) throw error;
    return {
      ...{ vm, contextId, policy, workflowId, kept: 0, removed: 0, points: null, warnings: [] },
      error: describeFailure(error, workflowId),
    };
  }
}

function describeFailure(error: TemporalFailure, workflowId: string): { code: string; message: string } {
  if (error instanceof WorkflowExecutionAlreadyStartedError) {
    return { code: 'InUse', message: `Workflow '${workflowId}' of an earlier run goes on; wait for it` };
  }
  const failure = applicationFailureIn(error.cause);
  return { code: failure?.type ?? 'Unexpected', message: messageOf(failure ?? error.cause) };
}

/** The points of so many VMs as one result can hold. */
function withinLimit(vms: PrunedVM[]): PrunedVM[] {
  const count = vms.reduce((sum, { points }) => sum + (points?.length ?? 0), 0);
  return count <= mostPoints ? vms : vms.map((vm) => ({ ...vm, points: null }));
}
