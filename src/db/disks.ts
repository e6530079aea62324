import { and, eq, inArray, isNotNull, sql } from 'drizzle-orm';
import { alias } from 'drizzle-orm/pg-core';
import type { DiskPlan, PlanReason } from '../domain/plan.js';
import type { Database, Queryable } from './database.js';
import { backupDisks, backupJobs } from './schema.js';

export type BackupDisk = typeof backupDisks.$inferSelect;

export interface NewDisk extends DiskPlan {
  path: string;
}

/** Inserts the planned disks of a job, or brings their rows back to the plan: what was copied before does not count any more. */
export async function planDisks(
  db: Queryable,
  job: { id: string; contextId: string },
  disks: readonly NewDisk[],
): Promise<BackupDisk[]> {
  for (const { key, target, identity, sizeBytes, type, reason, parentId, path } of disks) {
    const plan = { target, identity, sizeBytes, type, reason, parentId, changeId: null, status: 'planned' as const };
    await db
      .insert(backupDisks)
      .values({ jobId: job.id, contextId: job.contextId, diskKey: key, path, ...plan })
      .onConflictDoUpdate({ target: [backupDisks.jobId, backupDisks.diskKey], set: plan });
  }
  return listDisks(db, job.id);
}

/** The disks of a job, ordered by target. */
export async function listDisks(db: Queryable, jobId: string): Promise<BackupDisk[]> {
  return db
    .select()
    .from(backupDisks)
    .where(eq(backupDisks.jobId, jobId))
    .orderBy(backupDisks.target, backupDisks.diskKey);
}

/** The disks of several jobs, by job. */
export async function listDisksOfJobs(db: Queryable, jobIds: readonly string[]): Promise<Map<string, BackupDisk[]>> {
  if (jobIds.length === 0) return new Map();
  const rows = await db
    .select()
    .from(backupDisks)
    .where(inArray(backupDisks.jobId, [...jobIds]))
    .orderBy(backupDisks.target, backupDisks.diskKey);
  const byJob = new Map<string, BackupDisk[]>(jobIds.map((id) => [id, []]));
  for (const row of rows) byJob.get(row.jobId)?.push(row);
  return byJob;
}

/** @throws TypeError when there is no such disk: ids come from our own rows */
export async function getDisk(db: Queryable, id: string): Promise<BackupDisk> {
  const [row] = await db.select().from(backupDisks).where(eq(backupDisks.id, id));
  if (!row) throw new TypeError(`Expected backup disk ${id}, found no such row`);
  return row;
}

/** A disk and all that its file needs, from itself back to the full. */
export async function listChain(db: Queryable, id: string): Promise<BackupDisk[]> {
  const chain: BackupDisk[] = [];
  for (let next: string | null = id; next !== null;) {
    const disk: BackupDisk = await getDisk(db, next);
    chain.push(disk);
    next = disk.parentId;
  }
  return chain;
}

/** Turns a planned incremental into a full; one that is copied stays what it is. Safe to repeat. */
export async function replanAsFull(db: Queryable, id: string, reason: PlanReason): Promise<void> {
  await db
    .update(backupDisks)
    .set({ type: 'full', reason, parentId: null, dirtyContext: null })
    .where(and(eq(backupDisks.id, id), inArray(backupDisks.status, ['planned', 'copying'])));
}

/**
 * Says which file an attempt is about to make. The row stands before the file.
 * @returns false when the job is not running any more: then a late attempt must not make it
 */
export async function recordAttempt(
  db: Database,
  id: string,
  { attemptPath, nbdPort }: { attemptPath: string; nbdPort: number },
): Promise<boolean> {
  return db.transaction(async (tx) => {
    const [job] = await tx
      .select({ status: backupJobs.status })
      .from(backupJobs)
      .innerJoin(backupDisks, eq(backupDisks.jobId, backupJobs.id))
      .where(eq(backupDisks.id, id))
      .for('share', { of: backupJobs }); // whoever aborts the job waits until this row says what to remove
    if (job?.status !== 'running') return false;
    await tx
      .update(backupDisks)
      .set({ attemptPath, nbdPort, status: 'copying', startedAt: sql`coalesce(${backupDisks.startedAt}, now())` })
      .where(eq(backupDisks.id, id));
    return true;
  });
}

/** Records that a disk's copy is whole; its change id counts from the seal on. Safe to repeat. */
export async function recordCopied(
  db: Queryable,
  id: string,
  values: Pick<BackupDisk, 'changedBytes' | 'writtenBytes'>,
): Promise<void> {
  await db
    .update(backupDisks)
    .set({ ...values, status: 'copied', finishedAt: sql`now()` })
    .where(and(eq(backupDisks.id, id), inArray(backupDisks.status, ['copying', 'copied'])));
}

/**
 * Change ids of a context's restore points that no head needs any more, so that the hypervisor may forget them.
 * A change id may cover several disks: it goes when the last of them has moved on.
 */
export async function obsoleteChangeIds(db: Queryable, contextId: string): Promise<string[]> {
  const head = alias(backupDisks, 'head');
  const rows = await db
    .selectDistinct({ changeId: backupDisks.changeId })
    .from(backupDisks)
    .innerJoin(backupJobs, eq(backupJobs.id, backupDisks.jobId))
    .where(
      and(
        eq(backupDisks.contextId, contextId),
        inArray(backupJobs.status, ['complete', 'deleting']),
        isNotNull(backupDisks.changeId),
        sql`not exists (select 1 from ${backupDisks} head where ${head.changeId} = ${backupDisks.changeId} and ${head.isHead})`,
      ),
    );
  return rows.flatMap(({ changeId }) => (changeId === null ? [] : [changeId]));
}

/** Records that the hypervisor has forgotten these change ids. Safe to repeat. */
export async function forgetChangeIds(db: Queryable, contextId: string, changeIds: readonly string[]): Promise<void> {
  if (changeIds.length === 0) return;
  await db
    .update(backupDisks)
    .set({ changeId: null })
    .where(and(eq(backupDisks.contextId, contextId), inArray(backupDisks.changeId, [...changeIds])));
}

/** Records that the unfinished files of a job are gone. Safe to repeat. */
export async function forgetAttempts(db: Queryable, jobId: string): Promise<void> {
  await db
    .update(backupDisks)
    .set({ attemptPath: null, sourceUri: null, dirtyContext: null })
    .where(eq(backupDisks.jobId, jobId));
}
