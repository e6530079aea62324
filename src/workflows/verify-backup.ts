import { uuid4 } from '@temporalio/workflow';
import type { VerificationChain, VerificationPlan, VerificationSubject } from '../activities/verify-plan.js';
import { formatBytes } from '../domain/format-bytes.js';
import { parseVerifyBackupInput, type VerifyBackupInput, type VerifyBackupRequest } from '../domain/verify-input.js';
import type { VerifiedFile, VerifyBackupResult } from '../domain/verify-result.js';
import { endChainLease, takeChainLease } from './chain-lease.js';
import { closingFailure } from './failures.js';
import { inLanes } from './lanes.js';
import type { VerifyDiskProgress } from './messages.js';
import { startDiskReport, type Columns, type Report } from './report.js';
import { jobSteps, probeVerificationSteps, verifySteps } from './steps.js';

/** A result may have 2 MiB; a file takes about 400 bytes of it. */
const mostFiles = 3_000;

const columns: Columns<VerifyDiskProgress> = [
  ['disk', ({ target }) => target],
  ['phase', ({ phase }) => phase],
  ['files', ({ files }) => String(files)],
  ['size', ({ fileBytes }) => formatBytes(fileBytes)],
];

type VerifyReport = Report<VerifyDiskProgress>;

/**
 * Looks whether a restore point, or every one of a VM, can be given back: each file that it needs, by the level asked for. Damage
 * is recorded, and is a result: the workflow completes with it. Touches neither the VM nor the files, and keeps nobody but those
 * from its chains who change them.
 */
export async function VerifyBackup(request: VerifyBackupRequest): Promise<VerifyBackupResult> {
  let host: string | undefined;
  try {
    const input = parseVerifyBackupInput(request);
    const { point, vm, hypervisor, repository, all } = input;
    const subject = await jobSteps.lookUpVerification({ point, vm, hypervisor, repository, all });
    host = subject.host;
    await probeVerificationSteps(host).probeVerification({ contextId: subject.contextId });
    const what = subject.pointId === null ? 'all restore points' : `restore point ${subject.pointId}`;
    const title = `Verification of ${subject.vm}, level ${input.level}`;
    return await verify(subject, input, startDiskReport({ title, subject: what, ids: {}, columns }));
  } catch (error) {
    throw closingFailure(error, host);
  }
}

/** The verification itself: from its lease on the chains to its clean-up, however that ends. */
async function verify(
  subject: VerificationSubject,
  input: VerifyBackupInput,
  report: VerifyReport,
): Promise<VerifyBackupResult> {
  const { contextId, host, pointId, vm, repository } = subject;
  const leaseId = uuid4();
  try {
    await takeChainLease({ id: leaseId, contextId, mode: 'shared', purpose: 'verify' }, report.step);
    const plan = await jobSteps.planVerification({ contextId, pointId });
    report.setDisks(plan.chains.map(progressOf));
    report.step('reading');
    const files = await verifyChains(subject, plan, input, report);
    report.step(files.some(({ damage }) => damage !== null) ? 'found damage' : 'found no damage');
    return { vm, repository, level: input.level, ...describe(plan, files) };
  } finally {
    // Always: on success, failure and cancellation. After a crash of the worker, Temporal brings the workflow back to this line.
    await endChainLease(host, leaseId, 'give the lease back', report.step);
  }
}

function progressOf({ key, target, diskIds, fileBytes }: VerificationChain): VerifyDiskProgress {
  return { key, target, phase: 'planned', files: diskIds.length, fileBytes };
}

/** Verifies all chains, at most `maxParallelDisks` at a time. When one cannot be read, the others are stopped before this throws. */
async function verifyChains(
  { contextId, host }: VerificationSubject,
  { chains }: VerificationPlan,
  { level, maxParallelDisks }: VerifyBackupInput,
  report: VerifyReport,
): Promise<VerifiedFile[]> {
  const verified = await inLanes(
    chains,
    maxParallelDisks,
    async (chain) => {
      const { key, target } = chain;
      report.disk({ key, phase: 'verifying' });
      const files = await verifySteps(host, `verify ${target}`).verifyChain({ contextId, chain, level });
      report.disk({ key, phase: files.some(({ damage }) => damage !== null) ? 'damaged' : 'good' });
      return files;
    },
    ({ key }) => report.disk({ key, phase: 'failed' }),
  );
  return verified.flat().sort((a, b) => a.pointTime.localeCompare(b.pointTime) || a.target.localeCompare(b.target));
}

function describe(
  { points }: VerificationPlan,
  files: readonly VerifiedFile[],
): Pick<VerifyBackupResult, 'damaged' | 'points' | 'fileCount' | 'files'> {
  const damaged = files.filter(({ damage }) => damage !== null);
  const isDamaged = new Set(damaged.map(({ pointId }) => pointId));
  return {
    damaged: damaged.length > 0,
    points: points.map((point) => ({ ...point, damaged: isDamaged.has(point.pointId) })),
    fileCount: files.length,
    files: files.length > mostFiles ? damaged.slice(0, mostFiles) : [...files],
  };
}
