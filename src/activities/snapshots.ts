import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import type { BackupDisk } from '../db/disks.js';
import { beginSnapshot, isForsaken, recordSnapshot, type OpenedDiskRow } from '../db/snapshots.js';
import { BackupError } from '../domain/errors.js';
import { totalBytes } from '../domain/extents.js';
import { diskFilePath } from '../domain/names.js';
import { asFull, planReasons, type BackupType, type DiskPlan, type PlanReason } from '../domain/plan.js';
import { mapExport, selectExtents } from '../nbd/nbdinfo.js';
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
        await mkdir(scratchDir, { recursive: true });
        await requireScratchSpace(scratchDir);
        const source = createSource(hypervisor);
        const { vmId, directory } = context;
        const snapshotId = randomUUID();
        const planned = input.disks.map((disk) => ({
          ...disk,
          path: diskFilePath(directory, disk.key, job.pointTime),
        }));
        const begun = await beginSnapshot(db, job, snapshotId, planned);
        if (!begun) throw tooLate(job.id);
        for (const id of begun.earlierIds) await endSnapshot(source, vmId, id, signal);
        const disks = input.disks.map(({ key, baseChangeId }) => ({ key, baseChangeId }));
        const snapshot = await openAlone(source, { snapshotId, vmId, quiesce: input.quiesce, disks }, signal);
        try {
          return await record(job.id, snapshotId, snapshot, begun.disks, input, source, signal);
        } catch (error) {
          // Clean-up may have been here before it was open. Not by `signal`, which a late attempt finds aborted.
          if (await isForsaken(db, snapshotId)) {
            await endSnapshot(source, vmId, snapshotId, AbortSignal.timeout(undoTimeoutMs));
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
        for (const id of job.snapshotIds) await createSource(hypervisor).closeSnapshot(context.vmId, id, signal);
      });
    },
  };

  /** Records what the snapshot came to, and what is to be copied from it. @throws BackupError JobNotFound when it is too late */
  async function record(
    jobId: string,
    snapshotId: string,
    { consistency, vmConfig, warnings, disks }: OpenSnapshot,
    planned: readonly BackupDisk[],
    input: OpenSnapshotInput,
    source: Source,
    signal: AbortSignal,
  ): Promise<OpenedSnapshot> {
    const opened: OpenedDisk[] = [];
    const rows: OpenedDiskRow[] = [];
    for (const plan of input.disks) {
      const row = planned.find(({ diskKey }) => diskKey === plan.key);
      const disk = disks.find(({ key }) => key === plan.key);
      if (!row || !disk) throw new TypeError(`Expected the snapshot to hold disk '${plan.key}', found it missing`);
      const { key, target, type, reason, parentId } = replan(plan, disk, input.onLostChangeId);
      const dirtyContext = type === 'incremental' ? disk.dirtyContext : null;
      const { uri: sourceUri, changeId, sizeBytes } = disk;
      const sizes = await measure(disk, dirtyContext, source, signal);
      rows.push({ id: row.id, type, reason, parentId, sourceUri, dirtyContext, changeId, sizeBytes });
      opened.push({ diskId: row.id, key, target, type, reason, sizeBytes, ...sizes, path: row.path });
    }
    if (await recordSnapshot(db, { jobId, snapshotId }, { consistency, vmConfig, warnings }, rows)) {
      return { consistency, disks: opened };
    }
    throw tooLate(jobId);
  }

  /** Opens a snapshot; one in its way that an attempt left which came late, and died, is ended first. */
  async function openAlone(source: Source, request: OpenSnapshotRequest, signal: AbortSignal): Promise<OpenSnapshot> {
    for (let ended = 0; ; ended += 1) {
      try {
        return await source.openSnapshot(request, signal);
      } catch (error) {
        const other =
          error instanceof BackupError && error.code === 'SourceBusy' ? error.details?.['snapshotId'] : null;
        if (ended === 3 || typeof other !== 'string' || !(await isForsaken(db, other))) throw error;
        await endSnapshot(source, request.vmId, other, signal);
      }
    }
  }
}

/** Ends a snapshot that nothing is copied from, with the change id that came with it. */
async function endSnapshot(source: Source, vmId: string, snapshotId: string, signal: AbortSignal): Promise<void> {
  await source.closeSnapshot(vmId, snapshotId, signal);
  await source.dropChangeIds(vmId, [changeIdOf(snapshotId)], signal);
}

/** In bytes: what a full of an open disk has to copy, and what this copy has to. */
async function measure(
  disk: SnapshotDisk,
  dirtyContext: string | null,
  source: Source,
  signal: AbortSignal,
): Promise<{ dataBytes: number; changedBytes: number }> {
  const allocation = await mapExport(disk.uri, 'base:allocation', signal);
  const dataBytes = totalBytes(selectExtents(allocation, (flags) => flags === 0));
  if (dirtyContext === null) return { dataBytes, changedBytes: dataBytes };
  return { dataBytes, changedBytes: totalBytes(await source.changedExtents(disk, signal)) };
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
