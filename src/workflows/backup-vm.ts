import { CancellationScope, isCancellation, upsertSearchAttributes, uuid4, workflowInfo } from '@temporalio/workflow';
import type { Targets } from '../activities/jobs.js';
import { parseBackupVMInput, type BackupVMInput, type BackupVMRequest } from '../domain/backup-input.js';
import { chooseDisks } from '../domain/choose-disks.js';
import { planDisk, type DiskPlan } from '../domain/plan.js';
import { orphanError } from '../domain/orphaned-run.js';
import {
  requireParent,
  requirePlaintextAllowed,
  requireRepositorySpace,
  requireRunning,
} from '../domain/preconditions.js';
import type { BackupVMDiskResult, BackupVMResult } from '../domain/result.js';
import { copyDisks, type CopiedDisk } from './copy-disks.js';
import { createPause } from './chain-lease.js';
import { closingFailure, messageOf } from './failures.js';
import { searchAttributes } from './messages.js';
import { startReport, type Report } from './report.js';
import { cleanUpSteps, firstCleanUpSteps, hostSteps, jobSteps, probeSteps, sealSteps } from './steps.js';

/**
 * Takes one restore point of one VM: one moment of all its disks, as a full or an incremental of each. A run that does not
 * complete leaves the chains, files and change ids as they were. Whatever happens, no qemu-nbd, port or snapshot stays behind.
 */
export async function BackupVM(request: BackupVMRequest): Promise<BackupVMResult> {
  const jobId = uuid4();
  let host: string | undefined;
  try {
    const input = parseBackupVMInput(request);
    const report = startReport(jobId, `Backup of ${input.vm}`);
    const targets = await jobSteps.lookUpTargets({ hypervisor: input.hypervisor, repository: input.repository });
    host = targets.host;
    const plan = await planBackup(targets, input, report);
    return await backUp(jobId, targets, input, plan, report);
  } catch (error) {
    throw closingFailure(error, host);
  }
}

interface BackupPlan {
  vmName: string;
  contextId: string;
  disks: DiskPlan[];
  freeBytes: number;
  ports: { first: number; last: number };
}

/** Asks the host and the record what there is, and decides full or incremental for each disk. Makes nothing yet. */
async function planBackup(targets: Targets, input: BackupVMInput, report: Report): Promise<BackupPlan> {
  const { host, hypervisorId, repositoryId } = targets;
  report.step(`asking host ${host} about the VM and the repository`);
  const { vm, freeBytes, ports } = await probeSteps(host).probeHost({ hypervisorId, repositoryId, vm: input.vm });
  requireRunning(vm);
  const chosen = chooseDisks(vm, input.disks);
  requirePlaintextAllowed(vm.name, chosen, input.allowPlaintext);
  const { vmId, name: vmName } = vm;
  const { contextId, facts, heads } = await jobSteps.lookUpContext({ hypervisorId, repositoryId, vmId, vmName });
  const disks = chosen.map((disk) => {
    const parent = heads.find(({ diskKey }) => diskKey === disk.key) ?? null;
    return planDisk({ ...disk, parent }, facts, input);
  });
  requireParent(vmName, input.type, disks);
  return { vmName, contextId, disks, freeBytes, ports };
}

/** The job itself: from its row to its seal, and its clean-up however that ends. */
async function backUp(
  jobId: string,
  targets: Targets,
  input: BackupVMInput,
  firstPlan: BackupPlan,
  report: Report,
): Promise<BackupVMResult> {
  const { host } = targets;
  const { quiesce, onLostChangeId, maxParallelDisks } = input;
  let plan = firstPlan;
  let status: 'complete' | 'failed' | 'cancelled' = 'failed';
  let problem = '';
  tag(targets, plan, 'running');
  try {
    plan = await insertJob(jobId, targets, input, plan, report);

    report.step('opening the snapshot');
    const { consistency, warnings, disks } = await hostSteps(
      host,
      `one moment of ${plan.disks.length} disk(s)`,
    ).openSnapshot({
      jobId,
      quiesce,
      onLostChangeId,
      allowIothreads: input.allowIothreads,
      allowPlaintext: input.allowPlaintext,
      disks: plan.disks,
    });
    report.setDisks(disks.map((disk) => ({ ...disk, phase: 'planned', writtenBytes: 0 })));
    requireRepositorySpace(targets.repositoryName, disks, plan.freeBytes);

    report.step('copying');
    const copied = await copyDisks(
      { jobId, host, ports: plan.ports, onLostChangeId, compare: input.compare, report },
      disks,
      maxParallelDisks,
    );

    report.step('closing the snapshot');
    await hostSteps(host, 'the last byte is copied').closeSnapshot({ jobId });

    report.step('checking and sealing');
    await sealSteps(host).sealRestorePoint({ jobId });
    report.setDisks(copied.map((disk) => ({ ...disk, phase: 'complete' })));
    status = 'complete';
    return { jobId, consistency, warnings, disks: copied.map(diskResult) };
  } catch (error) {
    status = isCancellation(error) ? 'cancelled' : 'failed';
    problem = messageOf(closingFailure(error, host));
    throw error;
  } finally {
    // Always: on success, failure and cancellation. After a crash of the worker, Temporal brings the workflow back to this line.
    await CancellationScope.nonCancellable(async () => {
      await cleanUp(jobId, targets, plan, report);
      if (status !== 'complete') await jobSteps.closeJob({ jobId, status, error: problem });
      tag(targets, plan, status);
      report.step(status);
    });
  }
}

/** Inserts the job. While restore points of the VM are being removed it waits, and plans anew upon what is left then. */
async function insertJob(
  jobId: string,
  targets: Targets,
  input: BackupVMInput,
  firstPlan: BackupPlan,
  report: Report,
): Promise<BackupPlan> {
  const { workflowId, runId } = workflowInfo();
  let plan = firstPlan;
  for (const pause = createPause(); ;) {
    const parentIds = plan.disks.flatMap(({ parentId }) => parentId ?? []);
    const result = await jobSteps.insertJob({ jobId, contextId: plan.contextId, workflowId, runId, parentIds });
    if (result.outcome === 'inserted') return plan;
    if (result.outcome === 'waits') await pause([result.holder], report.step);
    if (result.outcome === 'orphaned') await endOrphan(result.jobId, targets.host, report);
    plan = await planBackup(targets, input, report);
  }
}

/** Cleans up after the run that this one was reset from, or that was ended before this one began: no code of it runs any more. */
async function endOrphan(jobId: string, host: string, report: Report): Promise<void> {
  report.step('cleaning up after an earlier run');
  await cleanUpSteps(host, 'clean up after an earlier run of this workflow').cleanUp({ jobId });
  await jobSteps.closeJob({ jobId, status: 'failed', error: orphanError('replaced by a later run') });
}

/** The compensation. What cannot be done now is shown as pending, and done when the host is back: never given up. */
async function cleanUp(jobId: string, targets: Targets, plan: BackupPlan, report: Report): Promise<void> {
  const { host } = targets;
  const summary = 'stop every qemu-nbd, release ports, end the snapshot';
  report.step('cleaning up');
  try {
    await firstCleanUpSteps(host, summary).cleanUp({ jobId });
  } catch (error) {
    report.step(`clean-up is pending: ${messageOf(closingFailure(error, host))}`);
    tag(targets, plan, 'clean-up pending');
    await cleanUpSteps(host, summary).cleanUp({ jobId });
  }
}

/** Search attributes, for lists in the Web UI. A server that does not know them would refuse them, so they are left out there. */
function tag(targets: Targets, plan: BackupPlan, status: string): void {
  if (!targets.hasSearchAttributes) return;
  const types = new Set(plan.disks.map(({ type }) => type));
  upsertSearchAttributes([
    { key: searchAttributes.vmName, value: plan.vmName },
    { key: searchAttributes.repository, value: targets.repositoryName },
    { key: searchAttributes.type, value: types.size === 1 ? [...types].join() : 'mixed' },
    { key: searchAttributes.status, value: status },
  ]);
}

function diskResult({
  key,
  type,
  reason,
  sizeBytes,
  changedBytes,
  writtenBytes,
  path,
}: CopiedDisk): BackupVMDiskResult {
  return { key, type, reason, sizeBytes, changedBytes, writtenBytes, path };
}
