import { arrayContains, eq } from 'drizzle-orm';
import type { Database } from './database.js';
import { planDisks, type BackupDisk, type NewDisk } from './disks.js';
import type { Job } from './jobs.js';
import { backupDisks, backupJobs } from './schema.js';

/** What was planned for a snapshot that is about to be opened. */
export interface BegunSnapshot {
  disks: BackupDisk[];
  /** Those of attempts before this one: dead, or about to learn that they are late. */
  earlierIds: string[];
}

/**
 * Says that a snapshot is about to be opened for a job, before it is. From here on only this one counts: what was copied from an
 * earlier one cannot be sealed any more, and an attempt at an earlier one is late.
 * @returns undefined when the job is not running any more: then nothing may be opened for it
 */
export async function beginSnapshot(
  db: Database,
  job: { id: string; contextId: string },
  snapshotId: string,
  disks: readonly NewDisk[],
): Promise<BegunSnapshot | undefined> {
  return db.transaction(async (tx) => {
    const [row] = await tx.select().from(backupJobs).where(eq(backupJobs.id, job.id)).for('update');
    if (row?.status !== 'running') return undefined;
    await tx
      .update(backupJobs)
      .set({ snapshotIds: [...row.snapshotIds, snapshotId] })
      .where(eq(backupJobs.id, job.id));
    return { disks: await planDisks(tx, job, disks), earlierIds: row.snapshotIds };
  });
}

export type OpenedDiskRow = Pick<
  BackupDisk,
  | 'id'
  | 'type'
  | 'reason'
  | 'parentId'
  | 'sourceUri'
  | 'dirtyContext'
  | 'changeId'
  | 'identity'
  | 'sizeBytes'
  | 'wasEncrypted'
>;

/**
 * Records what an open snapshot came to, and what is to be copied from it.
 * @returns false when it is too late: the job has ended, or a later snapshot was begun
 */
export async function recordSnapshot(
  db: Database,
  { jobId, snapshotId }: { jobId: string; snapshotId: string },
  { consistency, vmConfig, warnings }: Pick<Job, 'consistency' | 'vmConfig' | 'warnings'>,
  disks: readonly OpenedDiskRow[],
): Promise<boolean> {
  return db.transaction(async (tx) => {
    const [row] = await tx.select().from(backupJobs).where(eq(backupJobs.id, jobId)).for('update');
    if (row?.status !== 'running' || row.snapshotIds.at(-1) !== snapshotId) return false;
    await tx.update(backupJobs).set({ consistency, vmConfig, warnings }).where(eq(backupJobs.id, jobId));
    for (const {
      id,
      type,
      reason,
      parentId,
      sourceUri,
      dirtyContext,
      changeId,
      identity,
      sizeBytes,
      wasEncrypted,
    } of disks) {
      const opened = { type, reason, parentId, sourceUri, dirtyContext, changeId, identity, sizeBytes, wasEncrypted };
      await tx.update(backupDisks).set(opened).where(eq(backupDisks.id, id));
    }
    return true;
  });
}

/**
 * Whether a snapshot was opened for one of our jobs, and nobody copies from it, nor will ask for what changed since: the job came to
 * no restore point, or a later snapshot counts.
 */
export async function isForsaken(db: Database, snapshotId: string): Promise<boolean> {
  const [job] = await db
    .select()
    .from(backupJobs)
    .where(arrayContains(backupJobs.snapshotIds, [snapshotId]));
  if (!job) return false;
  return job.snapshotIds.at(-1) !== snapshotId || ['aborting', 'failed', 'cancelled'].includes(job.status);
}
