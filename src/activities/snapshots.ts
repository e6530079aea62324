import { randomUUID } from 'node:crypto';
import type { BackupDisk } from '../db/disks.js';
import { beginSnapshot, isForsaken, recordSnapshot, type OpenedDiskRow } from '../db/snapshots.js';
import { BackupError } from '../domain/errors.js';
import { totalBytes } from '../domain/extents.js';
import { diskFilePath } from '../domain/names.js';
import { requirePlaintextAllowed } from '../domain/preconditions.js';
import { asFull, planReasons, type BackupType, type DiskPlan, type PlanReason } from '../domain/plan.js';
import { mapExport, selectExtents } from '../nbd/nbdinfo.js';
import { makePassableDirectory } from '../process/passable-directory.js';
import {
  changeIdOf,
  type OpenSnapshot,
  type OpenSnapshotRequest,
  type SnapshotDisk,
  type Source,
} from '../sources/source.js';
import { requireScratchSpace } from './copy-watch.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost } from './job-rows.js';

/** A hypervisor that hangs must not keep a late attempt for ever. */
const undoTimeoutMs = 120_000;

export interface OpenSnapshotInput {
  jobId: string;
  quiesce: 'auto' | 'require' | 'off';
  onLostChangeId: 'full' | 'fail';
  allowIothreads: boolean;
  allowPlaintext: boolean;
  disks: DiskPlan[];
}

/** A disk as it will be copied. `dataBytes`: what a full has to copy; `changedBytes`: what this copy has to. */
export interface OpenedDisk {
  diskId: string;
  key: string;
  target: string;
  type: BackupType;
  reason: PlanReason;
  sizeBytes: number;
  dataBytes: number;
  changedBytes: number;
  path: string;
}

export interface OpenedSnapshot {
  consistency: 'application' | 'filesystem' | 'crash';
  /** As in the job's row. */
  warnings: string[];
  disks: OpenedDisk[];
}

export function createSnapshotActivities({ db, host, scratchDir, createSource }: HostDependencies) {
  return {
    /**
     * Writes down the planned disks, then opens one point in time over all of them. A disk whose change id the hypervisor no
     * longer honours becomes a full. Run again, it closes what an earlier attempt opened, and opens anew: nothing was copied yet.
     */
    async openSnapshot(input: OpenSnapshotInput): Promise<OpenedSnapshot> {
      return heartbeating(async (signal) => {
        const { job, context, hypervisor } = await getJobRows(db, input.jobId);
        requireHost(host, hypervisor);
        await makePassableDirectory(scratchDir);
        await requireScratchSpace(scratchDir);
        const { vmId, directory } = context;
        const vm: VMAtHost = { source: createSource(hypervisor), vmId, signal };
        const snapshotId = randomUUID();
        const planned = input.disks.map((disk) => ({
          ...disk,
          path: diskFilePath(directory, disk.key, job.pointTime),
        }));
        const begun = await beginSnapshot(db, job, snapshotId, planned);
        if (!begun) throw tooLate(job.id);
        for (const id of begun.earlierIds) await endSnapshot(vm, id);
        const disks = input.disks.map(({ key, baseChangeId }) => ({ key, baseChangeId }));
        const { quiesce, allowIothreads } = input;
        const snapshot = await openAlone(vm, { snapshotId, vmId, quiesce, allowIothreads, disks });
        try {
          requirePlaintextAllowed(context.vmName, snapshot.disks, input.allowPlaintext); // it may be encrypted only since the plan
          const opened = await settleDisks(vm, input, begun.disks, snapshot.disks);
          const recorded = withPlaintextWarnings(snapshot);
          if (!(await recordSnapshot(db, { jobId: job.id, snapshotId }, recorded, opened))) throw tooLate(job.id);
          const { consistency, warnings } = recorded;
          return { consistency, warnings, disks: opened.map(({ result }) => result) };
        } catch (error) {
          // Clean-up may have been here before it was open. Not by `signal`, which a late attempt finds aborted.
          if (await isForsaken(db, snapshotId)) {
            await endSnapshot({ ...vm, signal: AbortSignal.timeout(undoTimeoutMs) }, snapshotId);
          }
          throw error;
        }
      });
    },

    /** Ends the snapshot as soon as the last byte is copied: while it is open, it costs the guest. */
    async closeSnapshot(input: { jobId: string }): Promise<void> {
      await heartbeating(async (signal) => {
        const { job, context, hypervisor } = await getJobRows(db, input.jobId);
        requireHost(host, hypervisor);
        const source = createSource(hypervisor);
        for (const id of job.snapshotIds) await source.closeSnapshot(context.vmId, id, signal);
      });
    },
  };

  /** Opens a snapshot; one in its way that an attempt left which came late, and died, is ended first. */
  async function openAlone(vm: VMAtHost, request: OpenSnapshotRequest): Promise<OpenSnapshot> {
    for (let ended = 0; ; ended += 1) {
      try {
        return await vm.source.openSnapshot(request, vm.signal);
      } catch (error) {
        const other =
          error instanceof BackupError && error.code === 'SourceBusy' ? error.details?.['snapshotId'] : null;
        if (ended === 3 || typeof other !== 'string' || !(await isForsaken(db, other))) throw error;
        await endSnapshot(vm, other);
      }
    }
  }
}

interface VMAtHost {
  source: Source;
  vmId: string;
  signal: AbortSignal;
}

/** Ends a snapshot that nothing is copied from, with the change id that came with it. */
async function endSnapshot({ source, vmId, signal }: VMAtHost, snapshotId: string): Promise<void> {
  await source.closeSnapshot(vmId, snapshotId, signal);
  await source.dropChangeIds(vmId, [changeIdOf(snapshotId)], signal);
}

/** What is copied of each disk, and how: as its row is to say it, and as the workflow goes on with it. */
async function settleDisks(
  { source, signal }: VMAtHost,
  input: OpenSnapshotInput,
  rows: readonly BackupDisk[],
  opened: readonly SnapshotDisk[],
): Promise<(OpenedDiskRow & { result: OpenedDisk })[]> {
  const settled: (OpenedDiskRow & { result: OpenedDisk })[] = [];
  for (const plan of input.disks) {
    const row = rows.find(({ diskKey }) => diskKey === plan.key);
    const disk = opened.find(({ key }) => key === plan.key);
    if (!row || !disk) throw new TypeError(`Expected the snapshot to hold disk '${plan.key}', found it missing`);
    const { key, target, type, reason, parentId } = replan(plan, disk, input.onLostChangeId);
    const dirtyContext = type === 'incremental' ? disk.dirtyContext : null;
    const { uri: sourceUri, changeId, identity, sizeBytes, isEncrypted: wasEncrypted } = disk;
    const allocation = await mapExport(sourceUri, 'base:allocation', signal);
    const dataBytes = totalBytes(selectExtents(allocation, (flags) => flags === 0));
    const changedBytes = dirtyContext === null ? dataBytes : totalBytes(await source.changedExtents(disk, signal));
    const { id, path } = row;
    const result = { diskId: id, key, target, type, reason, sizeBytes, dataBytes, changedBytes, path };
    const facts = { sourceUri, dirtyContext, changeId, identity, sizeBytes, wasEncrypted };
    settled.push({ id, type, reason, parentId, ...facts, result });
  }
  return settled;
}

/** What the restore point says of disks that lie in it in clear, and did not at their source. */
function withPlaintextWarnings(snapshot: OpenSnapshot): OpenSnapshot {
  const encrypted = snapshot.disks.filter(({ isEncrypted }) => isEncrypted);
  const warnings = encrypted.map(
    ({ key }) => `disk '${key}' is encrypted in the VM, and lies in this restore point in clear`,
  );
  return { ...snapshot, warnings: [...snapshot.warnings, ...warnings] };
}

/** For an attempt that was taken for dead, and comes back after its job has ended, or another attempt has begun. */
function tooLate(jobId: string): BackupError {
  return new BackupError(
    'JobNotFound',
    `Expected job ${jobId} running, with no later attempt at its snapshot, found that it has ended, or was begun anew; what this one opened is closed again`,
  );
}

/** What the open snapshot leaves of a plan. @throws BackupError ChangeIdLost when a surprising full is not wanted */
function replan(plan: DiskPlan, opened: SnapshotDisk, onLostChangeId: 'full' | 'fail'): DiskPlan {
  if (plan.type === 'full') return plan;
  if (opened.identity !== plan.identity) return asFull(plan, 'disk_replaced'); // it was replaced after the plan was made
  if (opened.sizeBytes !== plan.sizeBytes) {
    return asFull(plan, opened.sizeBytes > plan.sizeBytes ? 'disk_grown' : 'disk_shrunk');
  }
  if (opened.changedSince !== null && opened.changedSince === plan.baseChangeId) return plan;
  if (onLostChangeId === 'full') return asFull(plan, 'change_id_lost');
  throw new BackupError(
    'ChangeIdLost',
    `Expected an incremental of disk '${plan.key}', but ${planReasons.change_id_lost}; allow a full with onLostChangeId 'full'`,
  );
}

export type SnapshotActivities = ReturnType<typeof createSnapshotActivities>;
