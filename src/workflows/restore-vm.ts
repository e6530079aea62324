import { uuid4 } from '@temporalio/workflow';
import type { PreparedRestore } from '../activities/prepare-restore.js';
import type { RestoreSubject } from '../activities/restore-look-up.js';
import { formatBytes } from '../domain/format-bytes.js';
import { keepReplacedSeconds } from '../domain/keep-replaced.js';
import { parseRestoreVMInput, type RestoreVMInput, type RestoreVMRequest } from '../domain/restore-input.js';
import type { RestoreVMDiskResult, RestoreVMResult } from '../domain/restore-result.js';
import { endChainLease, takeChainLease } from './chain-lease.js';
import { closingFailure } from './failures.js';
import { inLanes } from './lanes.js';
import type { RestoreDiskProgress } from './messages.js';
import { startDiskReport, type Columns, type Report } from './report.js';
import { jobSteps, restoreDiskSteps, restoreSteps } from './steps.js';

const columns: Columns<RestoreDiskProgress> = [
  ['disk', ({ target }) => target],
  ['phase', ({ phase }) => phase],
  ['size', ({ sizeBytes }) => formatBytes(sizeBytes)],
  ['written', ({ writtenBytes }) => formatBytes(writtenBytes)],
  ['file', ({ path }) => path],
];

type RestoreReport = Report<RestoreDiskProgress>;

/**
 * Brings disks of a restore point back: as files, as a new VM, or in place of the VM's own. Every disk is written beside its
 * final name, read back and compared with the hashes of the point; only when all of them are good do they get their names. A run
 * that does not complete leaves no half file, no half VM and no process behind.
 */
export async function RestoreVM(request: RestoreVMRequest): Promise<RestoreVMResult> {
  let host: string | undefined;
  try {
    const input = parseRestoreVMInput(request);
    const { point, vm, at, hypervisor, repository, target } = input;
    const subject = await jobSteps.lookUpRestore({ point, vm, at, hypervisor, repository, target });
    host = subject.host;
    const title = `Restore of ${subject.vmName} as of ${subject.pointTime}`;
    const ids = { pointId: subject.pointId };
    return await restore(subject, input, startDiskReport({ title, subject: `point ${subject.pointId}`, ids, columns }));
  } catch (error) {
    throw closingFailure(error, host);
  }
}

/** The restore itself: from its lease on the point to its clean-up, however that ends. */
async function restore(
  subject: RestoreSubject,
  input: RestoreVMInput,
  report: RestoreReport,
): Promise<RestoreVMResult> {
  const { pointId, pointTime, contextId, host, hypervisorId } = subject;
  const { target, overwrite, allowDamaged, maxParallelDisks } = input;
  const [leaseId, newVMId] = [uuid4(), uuid4()];
  let result: RestoreVMResult;
  try {
    await takeChainLease({ id: leaseId, contextId, mode: 'shared', purpose: 'restore' }, report.step);

    report.step('looking at the point and the target');
    const prepared = await restoreSteps(host, 'what is written where, and whether it may be').prepareRestore({
      ...{ leaseId, pointId, target, hypervisorId, newVMId, disks: input.disks, overwrite, allowDamaged },
      keepReplacedSeconds: keepReplacedSeconds(input),
    });
    report.setDisks(prepared.disks.map((disk) => ({ ...disk, phase: 'planned', writtenBytes: 0 })));

    report.step('writing and verifying');
    const disks = await restoreDisks(host, prepared, { allowDamaged, limit: maxParallelDisks }, report);

    report.step('giving the disks their names');
    const kept = await restoreSteps(host, 'every disk is written and verified').placeRestore({ leaseId });
    for (const { key } of disks) report.disk({ key, phase: 'complete' });
    result = { pointId, pointTime, vm: prepared.vm, disks, kept, warnings: prepared.warnings };
  } finally {
    // Always: on success, failure and cancellation. After a crash of the worker, Temporal brings the workflow back to this line.
    report.step('cleaning up');
    await endChainLease(host, leaseId, 'stop who writes, remove unfinished files, give the lease back', report.step);
  }
  if (target.kind === 'vm' && target.start && hypervisorId !== null) {
    report.step('starting the VM'); // it is restored: a start that fails leaves it as it is
    await restoreSteps(host, `start ${target.name}`).startRestoredVM({ hypervisorId, vmId: newVMId });
  }
  report.step('complete');
  return result;
}

/** Writes and verifies all disks, at most `limit` at a time. When one fails, the others are stopped before this throws. */
async function restoreDisks(
  host: string,
  { disks }: PreparedRestore,
  { allowDamaged, limit }: { allowDamaged: boolean; limit: number },
  report: RestoreReport,
): Promise<RestoreVMDiskResult[]> {
  const restored = await inLanes(
    disks,
    limit,
    async ({ restoreDiskId, key, target, path, format, sizeBytes }) => {
      report.disk({ key, phase: 'writing' });
      const counts = await restoreDiskSteps(host, `restore ${target}`).restoreDisk({ restoreDiskId, allowDamaged });
      report.disk({ key, phase: 'written', writtenBytes: counts.writtenBytes });
      return { key, target, path, format, sizeBytes, ...counts };
    },
    ({ key }) => report.disk({ key, phase: 'failed' }),
  );
  return restored.sort((a, b) => a.target.localeCompare(b.target));
}
