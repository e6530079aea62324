import { and, eq, inArray, or, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import type { Namespace } from '../domain/namespace.js';
import type { RunRow } from '../domain/orphaned-run.js';
import { chainLeases } from './chain-schema.js';
import type { Database, Queryable } from './database.js';
import { isGivenUp, requireInstallation } from './installations.js';
import { backupJobs, repositories, vmBackupContexts } from './schema.js';

export type ChainLease = typeof chainLeases.$inferSelect;
export type NewChainLease = Pick<ChainLease, 'id' | 'contextId' | 'mode' | 'purpose' | 'workflowId' | 'runId'>;

/** Who works on a context's restore points. */
export interface ChainHolder {
  purpose: ChainLease['purpose'] | 'backup';
  workflowId: string;
}

/**
 * Leases the restore points of a context, so that nobody changes them while others read. Safe to repeat with the same id.
 * @returns those that have to end first; none when the lease was given
 * @throws BackupError ContextNotFound; WrongNamespace when the database belongs to another namespace
 */
export async function acquireChainLease(
  db: Database,
  lease: NewChainLease,
  namespace: Namespace,
): Promise<ChainHolder[]> {
  return db.transaction(async (tx) => {
    await lockContext(tx, lease.contextId);
    await requireInstallation(tx, namespace);
    const leases = await tx.select().from(chainLeases).where(eq(chainLeases.contextId, lease.contextId));
    if (leases.some(({ id }) => id === lease.id)) return [];
    const holders: ChainHolder[] = leases.filter(({ mode }) => mode === 'exclusive' || lease.mode === 'exclusive');
    if (lease.mode === 'exclusive') holders.push(...(await runningBackups(tx, lease.contextId)));
    if (holders.length > 0) return holders.map(({ purpose, workflowId }) => ({ purpose, workflowId }));
    await tx.insert(chainLeases).values({ ...lease, namespaceId: namespace.id });
    return [];
  });
}

/** Whoever gives a lease on a context, or starts a job of it, does so alone. @throws BackupError ContextNotFound */
export async function lockContext(tx: Queryable, contextId: string): Promise<void> {
  const [row] = await tx
    .select({ id: vmBackupContexts.id })
    .from(vmBackupContexts)
    .where(eq(vmBackupContexts.id, contextId))
    .for('update');
  if (!row) {
    throw new BackupError(
      'ContextNotFound',
      `Expected the backup context ${contextId}, found that it has been deleted`,
    );
  }
}

async function runningBackups(tx: Queryable, contextId: string): Promise<ChainHolder[]> {
  const jobs = await tx
    .select({ workflowId: backupJobs.workflowId })
    .from(backupJobs)
    .where(
      and(
        eq(backupJobs.contextId, contextId),
        or(
          inArray(backupJobs.status, ['running', 'aborting']),
          and(eq(backupJobs.status, 'complete'), eq(backupJobs.cleanUp, 'pending')), // sealed, and its ports not given back
        ),
      ),
    );
  return jobs.map(({ workflowId }) => ({ purpose: 'backup' as const, workflowId }));
}

/** The run that changes or removes restore points of a context, if there is one. */
export async function exclusiveHolder(tx: Queryable, contextId: string): Promise<ChainHolder | undefined> {
  const [holder] = await tx
    .select({ purpose: chainLeases.purpose, workflowId: chainLeases.workflowId })
    .from(chainLeases)
    .where(and(eq(chainLeases.contextId, contextId), eq(chainLeases.mode, 'exclusive')));
  return holder;
}

export async function findChainLease(db: Queryable, id: string): Promise<ChainLease | undefined> {
  const [row] = await db.select().from(chainLeases).where(eq(chainLeases.id, id));
  return row;
}

/** Gives a lease back, and with it the rows of what it had to clean up. Safe to repeat. */
export async function releaseChainLease(db: Queryable, id: string): Promise<void> {
  await db.delete(chainLeases).where(eq(chainLeases.id, id));
}

/** Records what keeps a lease from being given back. */
export async function recordLeaseTrouble(db: Queryable, id: string, error: string): Promise<void> {
  await db.update(chainLeases).set({ cleanUpError: error }).where(eq(chainLeases.id, id));
}

export interface OpenLease extends RunRow {
  id: string;
  vm: string;
  purpose: ChainLease['purpose'];
  workflowId: string;
  runId: string;
}

/** The leases on restore points that lie on this host. Those whose clean-up failed before come last. */
export async function listChainLeases(db: Queryable, host: string): Promise<OpenLease[]> {
  const { id, purpose, workflowId, runId, namespaceId } = chainLeases;
  return db
    .select({
      ...{ id, vm: vmBackupContexts.vmName, purpose, workflowId, runId },
      // The lease of a run that completed is of an older database. What it holds is judged by the files, not by its rows
      // (`cleanUpLease`), so it can go: it would keep every prune of the VM waiting.
      ...{ namespaceId, isGivenUp: isGivenUp(namespaceId), isComplete: sql<boolean>`true` },
    })
    .from(chainLeases)
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.id, chainLeases.contextId))
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId))
    .where(eq(repositories.host, host))
    .orderBy(sql`${chainLeases.cleanUpError} is not null`, chainLeases.acquiredAt);
}
