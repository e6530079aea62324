import { and, desc, eq, inArray, ne, sql } from 'drizzle-orm';
import { alias } from 'drizzle-orm/pg-core';
import { planDeletion, type ChainDisk, type DeletionPlan, type Descendants } from '../domain/deletion.js';
import { requireUnprotected } from '../domain/protection.js';
import { chainLeases, merges } from './chain-schema.js';
import { databaseTime, type Database, type Queryable } from './database.js';
import type { Job } from './jobs.js';
import { lockProtectionFacts, protectionFacts } from './protection.js';
import { moveEpoch } from './repositories.js';
import { backupDisks, backupJobs, nbdExports, vmBackupContexts } from './schema.js';

/** Which restore points of a context are to go. */
export interface DeletionRequest {
  contextId: string;
  jobIds: readonly string[];
  descendants: Descendants;
}

/** What the deletion takes, if it may be done at all. Changes nothing. @throws BackupError HasDescendants, Protected */
export async function lookUpPlan(db: Queryable, request: DeletionRequest): Promise<DeletionPlan> {
  const plan = planDeletion(await listChainDisks(db, request.contextId), request.jobIds, request.descendants);
  requireUnprotected(await protectionFacts(db, request.contextId), plan.jobIds, await databaseTime(db));
  return plan;
}

async function listChainDisks(db: Queryable, contextId: string): Promise<ChainDisk[]> {
  return db
    .select({ id: backupDisks.id, jobId: backupDisks.jobId, parentId: backupDisks.parentId })
    .from(backupDisks)
    .innerJoin(backupJobs, eq(backupJobs.id, backupDisks.jobId))
    .where(and(eq(backupDisks.contextId, contextId), eq(backupJobs.status, 'complete')))
    .orderBy(backupJobs.pointTime, backupDisks.diskKey);
}

/**
 * The one transaction from which on restore points are being deleted: their tombstones, the journal of the merges that they
 * need, and the heads of the chains moved. What protects them is looked at once more, under locks: a hold that came before wins.
 * @throws BackupError Protected
 */
export async function tombstonePoints(
  db: Database,
  lease: { id: string; contextId: string; deletesContext: boolean },
  { jobIds, merges: planned }: DeletionPlan,
): Promise<void> {
  const { id: leaseId, contextId, deletesContext } = lease;
  await db.transaction(async (tx) => {
    requireUnprotected(await lockProtectionFacts(tx, contextId), jobIds, await databaseTime(tx));
    await tx.update(chainLeases).set({ deletesContext }).where(eq(chainLeases.id, leaseId));
    if (jobIds.length === 0) return;
    await moveEpoch(tx, contextId);
    await tx
      .update(backupJobs)
      .set({ status: 'deleting' })
      .where(and(inArray(backupJobs.id, jobIds), eq(backupJobs.status, 'complete')));
    const rows = planned.flatMap(({ memberIds: [baseId], successorId }) =>
      baseId === undefined ? [] : [{ leaseId, baseId, successorId }],
    );
    if (rows.length > 0) await tx.insert(merges).values(rows);
    await leaveUnfinished(tx, contextId, jobIds);
    await moveHeads(tx, contextId);
  });
}

/** Disks that no backup completed would keep their parents' rows from going. */
async function leaveUnfinished(tx: Queryable, contextId: string, jobIds: readonly string[]): Promise<void> {
  const parents = tx
    .select({ id: backupDisks.id })
    .from(backupDisks)
    .where(inArray(backupDisks.jobId, [...jobIds]));
  await tx
    .update(backupDisks)
    .set({ parentId: null })
    .where(
      and(
        eq(backupDisks.contextId, contextId),
        ne(backupDisks.status, 'complete'),
        inArray(backupDisks.parentId, parents),
      ),
    );
}

/** The newest restore point that stays becomes the head, of each disk that loses its own. */
async function moveHeads(tx: Queryable, contextId: string): Promise<void> {
  const lost = await tx
    .select({ id: backupDisks.id, diskKey: backupDisks.diskKey, isRestoredOver: backupDisks.isRestoredOver })
    .from(backupDisks)
    .innerJoin(backupJobs, eq(backupJobs.id, backupDisks.jobId))
    .where(and(eq(backupDisks.contextId, contextId), backupDisks.isHead, eq(backupJobs.status, 'deleting')));
  for (const { id, diskKey, isRestoredOver } of lost) {
    await tx.update(backupDisks).set({ isHead: false }).where(eq(backupDisks.id, id));
    const [newest] = await tx
      .select({ id: backupDisks.id, isRestoredOver: backupDisks.isRestoredOver })
      .from(backupDisks)
      .innerJoin(backupJobs, eq(backupJobs.id, backupDisks.jobId))
      .where(
        and(eq(backupDisks.contextId, contextId), eq(backupDisks.diskKey, diskKey), eq(backupJobs.status, 'complete')),
      )
      .orderBy(desc(backupJobs.pointTime))
      .limit(1);
    if (!newest) continue;
    await tx
      .update(backupDisks)
      .set({ isHead: true, isRestoredOver: isRestoredOver || newest.isRestoredOver })
      .where(eq(backupDisks.id, newest.id));
  }
}

/** The restore points of a context that are being deleted, newest first: no file goes before those that need it. */
export async function listTombstones(db: Queryable, contextId: string): Promise<Job[]> {
  return db
    .select()
    .from(backupJobs)
    .where(and(eq(backupJobs.contextId, contextId), eq(backupJobs.status, 'deleting')))
    .orderBy(desc(backupJobs.pointTime));
}

/** The paths of disks of restore points that still need a disk of these jobs. None, or a file must not go. */
export async function listNeedingPaths(db: Queryable, jobIds: readonly string[]): Promise<string[]> {
  if (jobIds.length === 0) return [];
  const parent = alias(backupDisks, 'parent');
  const rows = await db
    .select({ path: backupDisks.path })
    .from(backupDisks)
    .innerJoin(backupJobs, eq(backupJobs.id, backupDisks.jobId))
    .innerJoin(parent, eq(parent.id, backupDisks.parentId))
    .where(and(eq(backupJobs.status, 'complete'), inArray(parent.jobId, [...jobIds])));
  return rows.map(({ path }) => path);
}

/** Removes the rows of restore points whose files are gone, children before parents. Safe to repeat. */
export async function deleteTombstones(db: Database, contextId: string): Promise<void> {
  await db.transaction(async (tx) => {
    await moveEpoch(tx, contextId);
    for (const { id } of await listTombstones(tx, contextId)) await tx.delete(backupJobs).where(eq(backupJobs.id, id));
  });
}

/** Removes what is left of a context: failed jobs, leases, its policy. Safe to repeat. */
export async function deleteContext(db: Queryable, contextId: string): Promise<void> {
  await db.delete(vmBackupContexts).where(eq(vmBackupContexts.id, contextId));
}

/** What of a context's jobs may still be there, besides restore points: workflows whose clean-up is not done. */
export async function listUncleaned(db: Queryable, contextId: string): Promise<string[]> {
  const isLeased = sql`exists (select 1 from ${nbdExports} where ${nbdExports.jobId} = ${backupJobs.id})`;
  const isUnfinished = sql`exists (select 1 from ${backupDisks} where ${backupDisks.jobId} = ${backupJobs.id} and ${backupDisks.attemptPath} is not null)`;
  const rows = await db
    .select({ id: backupJobs.id })
    .from(backupJobs)
    .where(and(eq(backupJobs.contextId, contextId), sql`(${isLeased} or ${isUnfinished})`));
  return rows.map(({ id }) => id);
}
