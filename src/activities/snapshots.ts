import { mkdir } from 'node:fs/promises';
import { planDisks, recordSource, replanAsFull, type BackupDisk } from '../db/disks.js';
import { recordSnapshot } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';
import { totalBytes } from '../domain/extents.js';
import { diskFilePath } from '../domain/names.js';
import { asFull, planReasons, type BackupType, type DiskPlan, type PlanReason } from '../domain/plan.js';
import { mapExport, selectExtents } from '../nbd/nbdinfo.js';
import type { SnapshotDisk, Source } from '../sources/source.js';
import { requireScratchSpace } from './copy-watch.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost } from './job-rows.js';

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
     * longer honours becomes a full. Run again, it finds the snapshot that it opened.
     */
    async openSnapshot(input: OpenSnapshotInput): Promise<OpenedSnapshot> {
      return heartbeating(async (signal) => {
        const { job, context, hypervisor } = await getJobRows(db, input.jobId);
        requireHost(host, hypervisor);
        if (job.status !== 'running')
          throw new BackupError('JobNotFound', `Expected job ${job.id} running, found it ${job.status}`);
        const rows = await planDisks(
          db,
          job,
          input.disks.map((disk) => ({ ...disk, path: diskFilePath(context.directory, disk.key, job.pointTime) })),
        );
        await mkdir(scratchDir, { recursive: true });
        await requireScratchSpace(scratchDir);
        const source = createSource(hypervisor);
        const snapshot = await source.openSnapshot(
          {
            snapshotId: job.id,
            vmId: context.vmId,
            quiesce: input.quiesce,
            disks: input.disks.map(({ key, baseChangeId }) => ({ key, baseChangeId })),
          },
          signal,
        );
        const { consistency, vmConfig, warnings } = snapshot;
        await recordSnapshot(db, job.id, { consistency, vmConfig, warnings });
        const disks: OpenedDisk[] = [];
        for (const plan of input.disks) {
          const row = rows.find(({ diskKey }) => diskKey === plan.key);
          const opened = snapshot.disks.find(({ key }) => key === plan.key);
          if (!row || !opened)
            throw new TypeError(`Expected the snapshot to hold disk '${plan.key}', found it missing`);
          const final = replan(plan, opened, input.onLostChangeId);
          disks.push(await recordOpened(row, final, opened, source, signal));
        }
        return { consistency, disks };
      });
    },

    /** Ends the snapshot as soon as the last byte is copied: while it is open, it costs the guest. */
    async closeSnapshot(input: { jobId: string }): Promise<void> {
      await heartbeating(async (signal) => {
        const { context, hypervisor } = await getJobRows(db, input.jobId);
        requireHost(host, hypervisor);
        await createSource(hypervisor).closeSnapshot(context.vmId, input.jobId, signal);
      });
    },
  };

  async function recordOpened(
    row: BackupDisk,
    plan: DiskPlan,
    opened: SnapshotDisk,
    source: Source,
    signal: AbortSignal,
  ): Promise<OpenedDisk> {
    const dirtyContext = plan.type === 'incremental' ? opened.dirtyContext : null;
    if (plan.type === 'full' && row.type === 'incremental') await replanAsFull(db, row.id, plan.reason);
    const { uri: sourceUri, changeId, sizeBytes } = opened;
    await recordSource(db, row.id, { sourceUri, dirtyContext, changeId, sizeBytes });
    const allocation = await mapExport(sourceUri, 'base:allocation', signal);
    const dataBytes = totalBytes(selectExtents(allocation, (flags) => flags === 0));
    const changedBytes = dirtyContext === null ? dataBytes : totalBytes(await source.changedExtents(opened, signal));
    const { key, target, type, reason } = plan;
    return { diskId: row.id, key, target, type, reason, sizeBytes, dataBytes, changedBytes, path: row.path };
  }
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
