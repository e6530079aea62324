import { and, desc, eq, or } from 'drizzle-orm';
import { alias } from 'drizzle-orm/pg-core';
import { BackupError } from '../domain/errors.js';
import { requireLaterEnd, type ProtectionFacts } from '../domain/protection.js';
import { protectionChanges } from './chain-schema.js';
import { databaseTime, type Database, type Queryable } from './database.js';
import type { Job } from './jobs.js';
import type { RepositoryRow } from './repositories.js';
import { backupDisks, backupJobs, repositories, vmBackupContexts } from './schema.js';

export type ProtectionChange = typeof protectionChanges.$inferSelect;

/** All that may protect the restore points of a context. */
export async function protectionFacts(db: Queryable, contextId: string): Promise<ProtectionFacts> {
  const [repository] = await db
    .select({ id: repositories.id, name: repositories.name, immutableUntil: repositories.immutableUntil })
    .from(repositories)
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.repositoryId, repositories.id))
    .where(eq(vmBackupContexts.id, contextId));
  if (!repository) throw new TypeError(`Expected the repository of context ${contextId}, found no such row`);
  const jobs = await db
    .select({ id: backupJobs.id, hold: backupJobs.hold, immutableUntil: backupJobs.immutableUntil })
    .from(backupJobs)
    .where(and(eq(backupJobs.contextId, contextId), eq(backupJobs.status, 'complete')));
  const parent = alias(backupDisks, 'parent');
  const needs = await db
    .selectDistinct({ jobId: backupDisks.jobId, parentJobId: parent.jobId })
    .from(backupDisks)
    .innerJoin(parent, eq(parent.id, backupDisks.parentId))
    .where(eq(backupDisks.contextId, contextId));
  const points = jobs.map((job) => ({
    ...job,
    parentIds: needs.filter(({ jobId }) => jobId === job.id).map(({ parentJobId }) => parentJobId),
  }));
  return { repository, points };
}

/** The same, and nobody changes any of it before the transaction ends, nor the epoch of the repository. */
export async function lockProtectionFacts(tx: Queryable, contextId: string): Promise<ProtectionFacts> {
  const [context] = await tx.select().from(vmBackupContexts).where(eq(vmBackupContexts.id, contextId));
  if (!context) throw new TypeError(`Expected context ${contextId}, found no such row`);
  // Not `share`: two deletions that both had it would wait for each other when they move the epoch.
  await tx.select().from(repositories).where(eq(repositories.id, context.repositoryId)).for('no key update');
  await tx
    .select({ id: backupJobs.id })
    .from(backupJobs)
    .where(eq(backupJobs.contextId, contextId))
    .orderBy(backupJobs.id)
    .for('update');
  return protectionFacts(tx, contextId);
}

/** Who changes a protection, and why. */
export interface ProtectionAuthor {
  changedBy: string;
  reason: string | null;
}

/**
 * Holds a restore point, so that neither it nor what it needs can be deleted; or releases it, with `hold` null. Recorded.
 * @throws BackupError PointNotFound; InvalidInput when there is no hold to release
 */
export async function changeHold(
  db: Database,
  jobId: string,
  hold: string | null,
  author: ProtectionAuthor,
): Promise<Job> {
  return db.transaction(async (tx) => {
    const job = await lockPoint(tx, jobId);
    if (hold === null && job.hold === null) {
      throw new BackupError('InvalidInput', `Expected restore point ${jobId} to be held, found no hold to release`);
    }
    const kind = hold === null ? 'release' : 'hold';
    await tx.insert(protectionChanges).values({ ...author, kind, jobId, before: job.hold, after: hold });
    await tx.update(backupJobs).set({ hold }).where(eq(backupJobs.id, jobId));
    return { ...job, hold };
  });
}

/** Makes a restore point immutable until then. May be extended, never shortened. Recorded. @throws BackupError PointNotFound, Protected, InvalidInput */
export async function extendPointImmutability(
  db: Database,
  jobId: string,
  immutableUntil: Date,
  author: ProtectionAuthor,
): Promise<Job> {
  return db.transaction(async (tx) => {
    const job = await lockPoint(tx, jobId);
    requireLaterEnd(`restore point ${jobId}`, job.immutableUntil, immutableUntil, await databaseTime(tx));
    await tx.insert(protectionChanges).values({ ...author, jobId, ...endChange(job.immutableUntil, immutableUntil) });
    await tx.update(backupJobs).set({ immutableUntil }).where(eq(backupJobs.id, jobId));
    return { ...job, immutableUntil };
  });
}

/** Makes all restore points of a repository immutable until then, those to come included. May be extended, never shortened. Recorded. */
export async function extendRepositoryImmutability(
  db: Database,
  repositoryId: string,
  immutableUntil: Date,
  author: ProtectionAuthor,
): Promise<RepositoryRow> {
  return db.transaction(async (tx) => {
    const [row] = await tx.select().from(repositories).where(eq(repositories.id, repositoryId)).for('update');
    if (!row) throw new BackupError('RepositoryNotFound', `Expected repository ${repositoryId}, found no such row`);
    requireLaterEnd(`repository '${row.name}'`, row.immutableUntil, immutableUntil, await databaseTime(tx));
    const change = endChange(row.immutableUntil, immutableUntil);
    await tx.insert(protectionChanges).values({ ...author, repositoryId, ...change });
    await tx.update(repositories).set({ immutableUntil }).where(eq(repositories.id, repositoryId));
    return { ...row, immutableUntil };
  });
}

/** Every change of a point's protection, and of its repository's, newest first. */
export async function listProtectionChanges(
  db: Queryable,
  { jobId, repositoryId }: { jobId: string; repositoryId: string },
): Promise<ProtectionChange[]> {
  return db
    .select()
    .from(protectionChanges)
    .where(or(eq(protectionChanges.jobId, jobId), eq(protectionChanges.repositoryId, repositoryId)))
    .orderBy(desc(protectionChanges.changedAt));
}

async function lockPoint(tx: Queryable, jobId: string): Promise<Job> {
  const [job] = await tx.select().from(backupJobs).where(eq(backupJobs.id, jobId)).for('update');
  if (job?.status === 'complete') return job;
  const found = job ? `found a job that is ${job.status}` : 'found none';
  throw new BackupError('PointNotFound', `Expected restore point ${jobId}, ${found}; see 'backupvm point list'`);
}

function endChange(before: Date | null, after: Date) {
  return {
    kind: 'immutable_until' as const,
    before: before?.toISOString() ?? null,
    after: after.toISOString(),
  };
}
