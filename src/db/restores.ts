import { and, eq, exists, inArray, ne, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { chainLeases, restoreDisks, restores } from './chain-schema.js';
import { type Database, type Queryable, violatesUnique } from './database.js';
import { backupDisks, vmBackupContexts } from './schema.js';

export type Restore = typeof restores.$inferSelect;
export type RestoreDisk = typeof restoreDisks.$inferSelect;
export type NewRestore = Omit<Restore, 'phase'>;
export type NewRestoreDisk = Pick<RestoreDisk, 'backupDiskId' | 'path' | 'format' | 'attemptPath' | 'keptPath'>;

/**
 * Inserts a restore with its disks, before anything is made.
 * @throws BackupError InUse when another restore writes to one of the paths; Cancelled when its lease is gone
 */
export async function insertRestore(
  db: Database,
  restore: NewRestore,
  disks: readonly NewRestoreDisk[],
  host: string,
): Promise<RestoreDisk[]> {
  const { leaseId } = restore;
  try {
    return await db.transaction(async (tx) => {
      const lease = await tx.select().from(chainLeases).where(eq(chainLeases.id, leaseId)).for('share');
      if (lease.length === 0) throw leaseGone(leaseId);
      await tx.insert(restores).values(restore);
      return tx
        .insert(restoreDisks)
        .values(disks.map((disk) => ({ ...disk, leaseId, host })))
        .returning();
    });
  } catch (error) {
    if (!violatesUnique(error, 'restore_disks_host_path')) throw error;
    throw new BackupError(
      'InUse',
      `Expected that nobody else restores to ${disks.map(({ path }) => path).join(', ')}, found another restore that does; wait for it, or choose another directory`,
    );
  }
}

/** What a late attempt is told whose restore has been cleaned up. */
export function leaseGone(leaseId: string): BackupError {
  return new BackupError('Cancelled', `Expected the lease of restore ${leaseId}, found none: clean-up has been here`);
}

export async function findRestore(db: Queryable, leaseId: string): Promise<Restore | undefined> {
  const [row] = await db.select().from(restores).where(eq(restores.leaseId, leaseId));
  return row;
}

/** The disks of a restore, by path. */
export async function listRestoreDisks(db: Queryable, leaseId: string): Promise<RestoreDisk[]> {
  return db.select().from(restoreDisks).where(eq(restoreDisks.leaseId, leaseId)).orderBy(restoreDisks.path);
}

export async function findRestoreDisk(db: Queryable, id: string): Promise<RestoreDisk | undefined> {
  const [row] = await db.select().from(restoreDisks).where(eq(restoreDisks.id, id));
  return row;
}

/** Says that a disk is written anew, by nobody yet. @returns false when its restore is gone, or placed already */
export async function beginWriting(db: Queryable, id: string): Promise<boolean> {
  const none = { pid: null, startTime: null, bootId: null, writtenBytes: 0 };
  return updateWhileWriting(db, id, { status: 'writing', ...none });
}

/** Records the process that writes a disk. @returns false when its restore is gone: then it must not live on */
export async function recordWriter(
  db: Queryable,
  id: string,
  { pid, startTime, bootId }: { pid: number; startTime: string; bootId: string },
): Promise<boolean> {
  return updateWhileWriting(db, id, { pid, startTime, bootId });
}

/** Records that a disk is written and verified. @returns false when its restore is gone */
export async function recordWritten(db: Queryable, id: string, writtenBytes: number): Promise<boolean> {
  return updateWhileWriting(db, id, { status: 'written', writtenBytes });
}

async function updateWhileWriting(db: Queryable, id: string, values: Partial<RestoreDisk>): Promise<boolean> {
  const isWriting = db
    .select({ one: sql`1` })
    .from(restores)
    .where(and(eq(restores.leaseId, restoreDisks.leaseId), eq(restores.phase, 'writing')));
  const { rowCount } = await db
    .update(restoreDisks)
    .set(values)
    .where(and(eq(restoreDisks.id, id), exists(isWriting)));
  return rowCount === 1;
}

/**
 * Says that every disk is written: from here on the restore is finished, whatever happens. Where it replaces disks of a VM, what
 * the hypervisor recorded of them counts no more, in any repository: the next backups of them are fulls. Safe to repeat.
 * @throws BackupError Cancelled when its lease is gone, or clean-up undoes it
 */
export async function beginPlacing(db: Database, { leaseId, target, hypervisorId, vmId }: Restore): Promise<void> {
  await db.transaction(async (tx) => {
    const mayPlace = and(eq(restores.leaseId, leaseId), ne(restores.phase, 'undoing'));
    const { rowCount } = await tx.update(restores).set({ phase: 'placing' }).where(mayPlace);
    if (rowCount !== 1) throw leaseGone(leaseId);
    if (target !== 'in-place' || hypervisorId === null || vmId === null) return;
    await tx
      .update(backupDisks)
      .set({ isRestoredOver: true })
      .where(
        and(
          eq(backupDisks.isHead, true),
          inArray(backupDisks.contextId, contextsOf(tx, hypervisorId, vmId)),
          inArray(backupDisks.diskKey, keysOf(tx, leaseId)),
        ),
      );
  });
}

/** Says that a restore is undone, unless it is decided that it is finished: then it is that. @returns undefined when there is none */
export async function undoUnlessPlacing(db: Queryable, leaseId: string): Promise<Restore | undefined> {
  const mayUndo = and(eq(restores.leaseId, leaseId), ne(restores.phase, 'placing'));
  await db.update(restores).set({ phase: 'undoing' }).where(mayUndo);
  return findRestore(db, leaseId);
}

/** Records that a disk has its final name. */
export async function recordPlaced(db: Queryable, id: string): Promise<void> {
  await db.update(restoreDisks).set({ status: 'placed' }).where(eq(restoreDisks.id, id));
}

/** What the hypervisor recorded, per context, of disks that a restore replaced. */
export async function listReplacedChangeIds(
  db: Queryable,
  { leaseId, hypervisorId, vmId }: { leaseId: string; hypervisorId: string; vmId: string },
): Promise<{ contextId: string; changeId: string }[]> {
  const rows = await db
    .selectDistinct({ contextId: backupDisks.contextId, changeId: backupDisks.changeId })
    .from(backupDisks)
    .where(
      and(
        inArray(backupDisks.contextId, contextsOf(db, hypervisorId, vmId)),
        inArray(backupDisks.diskKey, keysOf(db, leaseId)),
        sql`${backupDisks.changeId} is not null`,
      ),
    );
  return rows.flatMap(({ contextId, changeId }) => (changeId === null ? [] : [{ contextId, changeId }]));
}

function contextsOf(db: Queryable, hypervisorId: string, vmId: string) {
  return db
    .select({ id: vmBackupContexts.id })
    .from(vmBackupContexts)
    .where(and(eq(vmBackupContexts.hypervisorId, hypervisorId), eq(vmBackupContexts.vmId, vmId)));
}

function keysOf(db: Queryable, leaseId: string) {
  return db
    .select({ key: backupDisks.diskKey })
    .from(restoreDisks)
    .innerJoin(backupDisks, eq(backupDisks.id, restoreDisks.backupDiskId))
    .where(eq(restoreDisks.leaseId, leaseId));
}
