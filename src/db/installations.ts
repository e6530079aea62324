import { and, eq, inArray, or, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { wrongNamespace, type Namespace, type RecordedNamespace } from '../domain/namespace.js';
import { chainLeases } from './chain-schema.js';
import type { Database, Queryable } from './database.js';
import { installations, lostNamespaces } from './installation-schema.js';
import { backupJobs } from './schema.js';

/** The namespace that the database belongs to, or undefined before the first worker or `setup`. */
export async function findInstallation(db: Queryable): Promise<RecordedNamespace | undefined> {
  const [row] = await db.select().from(installations);
  return row;
}

/**
 * Ties the database to the namespace that answers, unless it is tied to one already. Safe to repeat; of two at once, one wins.
 * @throws BackupError WrongNamespace when the database belongs to another namespace
 */
export async function claimInstallation(db: Queryable, namespace: Namespace): Promise<void> {
  await db.insert(installations).values({ namespaceId: namespace.id, namespace: namespace.name }).onConflictDoNothing();
  const recorded = await findInstallation(db);
  if (recorded?.namespaceId !== namespace.id) throw refusal(recorded, namespace);
}

/**
 * Within a transaction: no run of another namespace may leave a row, also when the database was given to another namespace
 * after the worker had started. @throws BackupError WrongNamespace
 */
export async function requireInstallation(tx: Queryable, namespace: Namespace): Promise<void> {
  const [recorded] = await tx.select().from(installations).for('share');
  if (recorded?.namespaceId !== namespace.id) throw refusal(recorded, namespace);
}

function refusal(recorded: RecordedNamespace | undefined, namespace: Namespace): Error {
  if (recorded) return wrongNamespace(recorded, namespace);
  return new TypeError('Expected the namespace of this database, found none recorded');
}

/** What a namespace that was given up leaves for clean-up. */
export interface LostNamespace {
  /** Backups whose clean-up is not done. */
  jobs: number;
  /** Restores, verifications, deletions and prunes that hold restore points. */
  leases: number;
  /** Whether the database belonged to it until now. */
  wasRecorded: boolean;
}

/** What giving up a namespace would leave for clean-up. Changes nothing. @throws BackupError InvalidInput, WrongNamespace */
export async function lookUpLostNamespace(db: Queryable, lostId: string, answering: Namespace): Promise<LostNamespace> {
  return checkLostNamespace(db, lostId, answering, await findInstallation(db));
}

/**
 * Gives up a namespace on a person's word: the database belongs to the one that answers from now on, and what runs of the lost
 * one left is cleaned up as if they had ended. A worker of the lost one that lives on can insert nothing. Safe to repeat.
 * @throws BackupError InvalidInput when the id is not one to give up; WrongNamespace when yet another namespace answers
 */
export async function giveUpNamespace(
  db: Database,
  { lostId, givenUpBy }: { lostId: string; givenUpBy: string },
  answering: Namespace,
): Promise<LostNamespace> {
  return db.transaction(async (tx) => {
    const [recorded] = await tx.select().from(installations).for('update');
    const lost = await checkLostNamespace(tx, lostId, answering, recorded);
    await tx
      .update(installations)
      .set({ namespaceId: answering.id, namespace: answering.name, recordedAt: sql`now()` })
      .where(eq(installations.namespaceId, lostId));
    await tx.insert(lostNamespaces).values({ namespaceId: lostId, givenUpBy }).onConflictDoNothing();
    await tx.delete(lostNamespaces).where(eq(lostNamespaces.namespaceId, answering.id)); // it answers again
    return lost;
  });
}

async function checkLostNamespace(
  db: Queryable,
  lostId: string,
  answering: Namespace,
  recorded: RecordedNamespace | undefined,
): Promise<LostNamespace> {
  if (lostId === answering.id) {
    throw new BackupError(
      'InvalidInput',
      `cannot give up namespace ${lostId}: it is '${answering.name}', which answers at ${answering.address}; stop its runs there, with 'temporal workflow cancel'`,
    );
  }
  const wasRecorded = recorded?.namespaceId === lostId;
  const lost = { ...(await countRows(db, lostId)), wasRecorded };
  if (wasRecorded) return lost;
  if (lost.jobs + lost.leases === 0) {
    const belongs = recorded
      ? `it belongs to '${recorded.namespace}' (id ${recorded.namespaceId})`
      : 'it belongs to none yet';
    throw new BackupError(
      'InvalidInput',
      `cannot give up namespace ${lostId}: this database does not know it, ${belongs}; see the ids in 'backupvm reconcile'`,
    );
  }
  if (recorded && recorded.namespaceId !== answering.id) throw wrongNamespace(recorded, answering);
  return lost;
}

async function countRows(db: Queryable, namespaceId: string): Promise<{ jobs: number; leases: number }> {
  const count = sql<number>`count(*)::int`;
  const [jobs] = await db
    .select({ count })
    .from(backupJobs)
    .where(
      and(
        eq(backupJobs.namespaceId, namespaceId),
        or(inArray(backupJobs.status, ['running', 'aborting']), eq(backupJobs.cleanUp, 'pending')),
      ),
    );
  const [leases] = await db.select({ count }).from(chainLeases).where(eq(chainLeases.namespaceId, namespaceId));
  return { jobs: jobs?.count ?? 0, leases: leases?.count ?? 0 };
}

/** Whether a row belongs to a namespace that was given up. */
export const isGivenUp = (namespaceId: typeof backupJobs.namespaceId | typeof chainLeases.namespaceId) =>
  sql<boolean>`exists (select 1 from ${lostNamespaces} where ${lostNamespaces.namespaceId} = ${namespaceId})`;
