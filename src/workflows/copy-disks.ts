import { CancellationScope, sleep } from '@temporalio/workflow';
import type { OpenedDisk } from '../activities/snapshots.js';
import type { TransferCounts } from '../activities/transfers.js';
import { applicationFailureIn, mayBeRetried } from './failures.js';
import { inLanes, takeTurns, type InTurn } from './lanes.js';
import type { Report } from './report.js';
import { cleanUpSteps, compareSteps, copySteps, hostSteps, jobSteps } from './steps.js';

/** How often one disk is begun anew, from a clean file, before the backup fails. The snapshot stays open: it is the same moment. */
const copyAttempts = 5;
const firstRetryMs = 5_000;
/** Ports come free when other backups end: look often at first, seldom later, so that a long wait stays a short history. */
const firstPortWaitMs = 5_000;
const longestPortWaitMs = 120_000;

export type CopiedDisk = OpenedDisk & TransferCounts;

export interface CopyRequest {
  jobId: string;
  host: string;
  ports: { first: number; last: number };
  onLostChangeId: 'full' | 'fail';
  /** Whether each copy is compared with the open snapshot. */
  compare: boolean;
  report: Report;
}

interface CopyContext extends CopyRequest {
  /** For the local activities of all disks. */
  inTurn: InTurn;
}

/** Copies all disks, at most `limit` at a time. When one fails, the others are stopped before this throws. */
export async function copyDisks(
  request: CopyRequest,
  disks: readonly OpenedDisk[],
  limit: number,
): Promise<CopiedDisk[]> {
  const context: CopyContext = { ...request, inTurn: takeTurns() };
  const copied = await inLanes(
    disks,
    limit,
    (disk) => copyDisk(context, disk),
    ({ key }) => context.report.disk({ key, phase: 'failed' }),
  );
  return copied.sort((a, b) => a.target.localeCompare(b.target));
}

/** Copies one disk, from a clean file as often as it takes. */
async function copyDisk(context: CopyContext, disk: OpenedDisk): Promise<CopiedDisk> {
  const takenPorts: number[] = [];
  for (let attempt = 1; ;) {
    try {
      return await copyOnce(context, disk, takenPorts);
    } catch (error) {
      const failure = applicationFailureIn(error);
      if (failure?.type === 'PortTaken') {
        takenPorts.push((failure.details?.[0] as { port: number }).port); // somebody whom our table does not know
        continue;
      }
      if (attempt >= copyAttempts || !mayBeRetried(error)) throw error;
      context.report.disk({ key: disk.key, phase: 'planned', writtenBytes: 0 });
      await sleep(firstRetryMs * 3 ** (attempt - 1), { summary: `copy ${disk.target} anew, attempt ${attempt + 1}` });
      attempt += 1;
    }
  }
}

async function copyOnce(context: CopyContext, disk: OpenedDisk, takenPorts: number[]): Promise<CopiedDisk> {
  const { jobId, host, onLostChangeId, compare, report, inTurn } = context;
  const { diskId, key, target, dataBytes, changedBytes } = disk;
  await leasePort(context, disk, takenPorts);
  report.disk({ key, phase: 'starting' });
  let copied: CopiedDisk;
  try {
    const started = await hostSteps(host, `serve the new file of ${target}`).startExport({
      jobId,
      diskId,
      dataBytes,
      changedBytes,
      onLostChangeId,
    });
    report.disk({ key, ...started, phase: 'copying' });
    const counts = await copySteps(host, `copy ${target}`).transferDisk({ jobId, diskId, dataBytes, changedBytes });
    copied = { ...disk, ...started, ...counts };
  } finally {
    await CancellationScope.nonCancellable(() =>
      cleanUpSteps(host, `stop qemu-nbd of ${target}`).stopExport({ diskId }),
    );
  }
  if (compare) {
    report.disk({ ...copied, phase: 'comparing' });
    await compareSteps(host, `compare ${target} with its source`).compareCopy({ jobId, diskId });
  }
  const { changedBytes: copiedBytes, writtenBytes } = copied;
  await inTurn(() => jobSteps.recordChangeId({ diskId, changedBytes: copiedBytes, writtenBytes }));
  report.disk({ ...copied, phase: 'copied' });
  return copied;
}

/** Leases a port. When all are taken it waits, and says so. */
async function leasePort(
  context: CopyContext,
  { diskId, key, target }: OpenedDisk,
  takenPorts: number[],
): Promise<void> {
  const { jobId, host, ports, report, inTurn } = context;
  const lease = { jobId, diskId, diskKey: key, host, ports, avoidPorts: takenPorts };
  for (let waitMs = firstPortWaitMs; ; waitMs = Math.min(waitMs * 2, longestPortWaitMs)) {
    const port = await inTurn(() => jobSteps.allocatePort(lease));
    if (port !== null) return;
    report.disk({ key, phase: 'waiting for a port' });
    await sleep(waitMs, {
      summary: `${target} waits for a port: ${ports.first}-${ports.last} on ${host} are all taken`,
    });
  }
}
