import { and, eq, inArray, isNull, sql } from 'drizzle-orm';
import { merges } from './chain-schema.js';
import type { Database, Queryable } from './database.js';
import { getDisk, listChain, type BackupDisk } from './disks.js';
import { moveEpoch } from './repositories.js';
import { backupDisks, backupJobs } from './schema.js';

export type Merge = typeof merges.$inferSelect;

/** The merges that were begun under a lease and are not done, in the order of their successors. Safe to repeat. */
export async function listMerges(db: Queryable, leaseId: string): Promise<Merge[]> {
  return db.select().from(merges).where(eq(merges.leaseId, leaseId)).orderBy(merges.successorId);
}

/** The disks of a merge, the one whose file receives the data first, the successor last. */
export async function listMerged(db: Queryable, { baseId, successorId }: Merge): Promise<BackupDisk[]> {
  const chain = await listChain(db, successorId);
  const end = chain.findIndex(({ id }) => id === baseId);
  if (end < 1)
    throw new TypeError(`Expected disk ${baseId} among the parents of disk ${successorId}, found it missing`);
  return chain.slice(0, end + 1).reverse();
}

/** Records the process that writes. @returns false when the merge is not at that any more: then it must not write */
export async function recordMergeProcess(
  db: Queryable,
  id: string,
  process: { pid: number; startTime: string; bootId: string },
): Promise<boolean> {
  const rows = await db
    .update(merges)
    .set(process)
    .where(and(eq(merges.id, id), eq(merges.phase, 'committing')))
    .returning({ id: merges.id });
  return rows.length > 0;
}

/** Records that the base's file holds all, is durable and has been compared: from here on it only has to change its name. Safe to repeat. */
export async function recordMerged(
  db: Database,
  { id, successorId }: Merge,
  { mergedChecksum, mergedBytes }: { mergedChecksum: string; mergedBytes: number },
): Promise<void> {
  await db.transaction(async (tx) => {
    await moveEpoch(tx, (await getDisk(tx, successorId)).contextId);
    await tx
      .update(merges)
      .set({ phase: 'replacing', mergedChecksum, mergedBytes, pid: null, startTime: null, bootId: null })
      .where(eq(merges.id, id));
  });
}

/** Makes the successor's row what its file is now, and ends the merge. Safe to repeat. */
export async function completeMerge(
  db: Database,
  merge: Merge,
  facts: Pick<BackupDisk, 'checksum' | 'fileBytes' | 'fileModifiedMs' | 'type' | 'parentId'>,
): Promise<void> {
  await db.transaction(async (tx) => {
    await moveEpoch(tx, (await getDisk(tx, merge.successorId)).contextId);
    const [open] = await tx.delete(merges).where(eq(merges.id, merge.id)).returning({ id: merges.id });
    if (!open) return;
    await tx
      .update(backupDisks)
      .set({ ...facts, reason: 'merged' })
      .where(eq(backupDisks.id, merge.successorId));
  });
}

/**
 * Gives a merge up that cannot be done any more, because a file of it is gone or damaged. What it would have deleted becomes
 * restore points again, and all that cannot be trusted is marked: these, the successor, and what needs it. Safe to repeat.
 */
export async function abandonMerge(db: Database, merge: Merge, problem: string): Promise<void> {
  await db.transaction(async (tx) => {
    const [open] = await tx.select().from(merges).where(eq(merges.id, merge.id)).for('update');
    if (open?.phase !== merge.phase) return; // a late attempt: another one has gone on
    const members = (await listMerged(tx, merge)).slice(0, -1);
    const memberJobIds = members.map(({ jobId }) => jobId);
    await tx.delete(merges).where(eq(merges.id, merge.id));
    await tx
      .update(backupJobs)
      .set({ status: 'complete' })
      .where(and(inArray(backupJobs.id, memberJobIds), eq(backupJobs.status, 'deleting')));
    await tx
      .update(backupDisks)
      .set({ damage: problem })
      .where(and(inArray(backupDisks.jobId, memberJobIds), isNull(backupDisks.damage)));
    await tx.execute(sql`
      with recursive needing(id) as (
        select ${merge.successorId}::uuid
        union
        select child.id from ${backupDisks} as child join needing on child.parent_id = needing.id
      )
      update ${backupDisks} set damage = ${problem}
      where damage is null and status = 'complete' and id in (select id from needing)`);
  });
}
