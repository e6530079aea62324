import { and, asc, eq, isNull, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { chainLeases, restores } from './chain-schema.js';
import { type Database, type Queryable } from './database.js';
import { keptDisks } from './kept-schema.js';
import { leaseGone } from './restores.js';

export type KeptDisk = typeof keptDisks.$inferSelect;
export type NewKeptDisk = Omit<KeptDisk, 'id' | 'keptAt' | 'keptUntil' | 'problem'>;

/** What tells a file from another one under its name. */
export type KeptFileFacts = Pick<KeptDisk, 'inode' | 'fileBytes' | 'fileModifiedMs'>;

/**
 * Records that a file is about to be kept. Again with other facts, where it had not been kept yet: these count then.
 * @throws BackupError Cancelled when its restore is gone: a late attempt must not keep anything
 */
export async function recordKept(db: Database, disk: NewKeptDisk): Promise<void> {
  await db.transaction(async (tx) => {
    const isPlacing = and(eq(restores.leaseId, disk.restoreId), eq(restores.phase, 'placing'));
    const [restore] = await tx.select().from(restores).where(isPlacing).for('share');
    if (!restore) throw leaseGone(disk.restoreId);
    const { inode, fileBytes, fileModifiedMs } = disk;
    await tx
      .insert(keptDisks)
      .values(disk)
      .onConflictDoUpdate({
        target: [keptDisks.host, keptDisks.keptPath],
        set: { inode, fileBytes, fileModifiedMs },
        setWhere: eq(keptDisks.restoreId, disk.restoreId),
      });
  });
}

/** Lets the time run for which the replaced disks of a restore are kept, by the clock of Postgres. Safe to repeat. */
export async function beginKeeping(db: Queryable, restoreId: string): Promise<KeptDisk[]> {
  await db
    .update(keptDisks)
    .set({ keptUntil: sql`now() + make_interval(secs => ${keptDisks.keepSeconds})` })
    .where(and(eq(keptDisks.restoreId, restoreId), isNull(keptDisks.keptUntil)));
  return db.select().from(keptDisks).where(eq(keptDisks.restoreId, restoreId)).orderBy(asc(keptDisks.path));
}

export interface KeptFilter {
  host?: string | undefined;
  jobId?: string | undefined;
}

/** Kept disks, those first whose time is up first. */
export async function listKept(db: Queryable, { host, jobId }: KeptFilter = {}): Promise<KeptDisk[]> {
  return db
    .select()
    .from(keptDisks)
    .where(
      and(
        host === undefined ? undefined : eq(keptDisks.host, host),
        jobId === undefined ? undefined : eq(keptDisks.jobId, jobId),
      ),
    )
    .orderBy(asc(keptDisks.keptUntil), asc(keptDisks.path));
}

/** The kept disks of a host whose time is up, by the clock of Postgres, and whose restore has ended. */
export async function listDueKept(db: Queryable, host: string): Promise<KeptDisk[]> {
  return db
    .select()
    .from(keptDisks)
    .where(
      and(
        eq(keptDisks.host, host),
        sql`${keptDisks.keptUntil} <= now()`,
        sql`not exists (select 1 from ${chainLeases} where ${chainLeases.id} = ${keptDisks.restoreId})`,
      ),
    )
    .orderBy(asc(keptDisks.keptUntil), asc(keptDisks.path));
}

/** The kept disk whose id begins with `idPrefix`. @throws BackupError KeptDiskNotFound, also when several do */
export async function findKept(db: Queryable, idPrefix: string): Promise<KeptDisk> {
  const found = await db
    .select()
    .from(keptDisks)
    .where(sql`starts_with(${keptDisks.id}::text, ${idPrefix.toLowerCase()})`)
    .limit(2);
  const [first] = found;
  if (first && found.length === 1) return first;
  const problem = first ? 'several kept disks have ids that begin' : 'no kept disk has an id that begins';
  throw new BackupError('KeptDiskNotFound', `${problem} with '${idPrefix}'; see 'backupvm kept list'`);
}

/** Sets how long from now a disk is kept, by the clock of Postgres: 0 says that it may go. Safe to repeat. */
export async function keepFor(db: Queryable, id: string, seconds: number): Promise<KeptDisk> {
  const [row] = await db
    .update(keptDisks)
    .set({ keptUntil: sql`now() + make_interval(secs => ${seconds})`, problem: null })
    .where(eq(keptDisks.id, id))
    .returning();
  if (!row) throw new BackupError('KeptDiskNotFound', `kept disk ${id} is gone; see 'backupvm kept list'`);
  return row;
}

/** Records why a disk whose time is up is still there. */
export async function recordKeptProblem(db: Queryable, id: string, problem: string): Promise<void> {
  await db.update(keptDisks).set({ problem }).where(eq(keptDisks.id, id));
}

/** Forgets a disk that is no longer kept under its name. Safe to repeat. */
export async function forgetKept(db: Queryable, id: string): Promise<void> {
  await db.delete(keptDisks).where(eq(keptDisks.id, id));
}
