import { randomBytes } from 'node:crypto';
import { and, eq, ne, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { pathComponent } from '../domain/names.js';
import type { ContextFacts, ParentFacts } from '../domain/plan.js';
import { type Database, type Queryable, violatesUnique } from './database.js';
import { backupDisks, backupJobs, hypervisors, repositories, vmBackupContexts } from './schema.js';

export type Context = typeof vmBackupContexts.$inferSelect;

export interface ContextKey {
  hypervisorId: string;
  repositoryId: string;
  /** The hypervisor's own id of the VM. */
  vmId: string;
  vmName: string;
}

/** Finds or makes the context of one VM in one repository. A VM that was renamed keeps its context, and its folder. */
export async function findOrCreateContext(db: Database, key: ContextKey): Promise<Context> {
  const found = await findContext(db, key);
  if (found) {
    if (found.vmName !== key.vmName) {
      await db.update(vmBackupContexts).set({ vmName: key.vmName }).where(eq(vmBackupContexts.id, found.id));
    }
    return found;
  }
  const directory = pathComponent(key.vmName);
  try {
    return await insertContext(db, key, directory);
  } catch (error) {
    if (violatesUnique(error, 'vm_backup_contexts_vm_repository')) return findOrCreateContext(db, key);
    if (!violatesUnique(error, 'vm_backup_contexts_directory')) throw error;
    // Another VM of this name has the folder: one that was deleted and made anew, or one on another hypervisor.
    return insertContext(db, key, `${directory}~${randomBytes(4).toString('hex')}`);
  }
}

async function findContext(db: Queryable, key: ContextKey): Promise<Context | undefined> {
  const [row] = await db
    .select()
    .from(vmBackupContexts)
    .where(
      and(
        eq(vmBackupContexts.hypervisorId, key.hypervisorId),
        eq(vmBackupContexts.vmId, key.vmId),
        eq(vmBackupContexts.repositoryId, key.repositoryId),
      ),
    );
  return row;
}

async function insertContext(db: Queryable, key: ContextKey, directory: string): Promise<Context> {
  const [row] = await db
    .insert(vmBackupContexts)
    .values({ ...key, directory })
    .returning();
  if (!row) throw new TypeError('Expected the inserted context, found no row');
  return row;
}

/**
 * The one context of VMs of this name, whatever is left of it.
 * @throws BackupError ContextNotFound; InvalidInput when it is not clear which one is meant
 */
export async function findContextByName(
  db: Queryable,
  { vm, repository, hypervisor }: { vm: string; repository?: string | undefined; hypervisor?: string | undefined },
): Promise<Context> {
  const found = await db
    .select({ context: vmBackupContexts, repository: repositories.name, hypervisor: hypervisors.name })
    .from(vmBackupContexts)
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId))
    .innerJoin(hypervisors, eq(hypervisors.id, vmBackupContexts.hypervisorId))
    .where(
      and(
        eq(vmBackupContexts.vmName, vm),
        repository === undefined ? undefined : eq(repositories.name, repository),
        hypervisor === undefined ? undefined : eq(hypervisors.name, hypervisor),
      ),
    );
  const [first] = found;
  if (first && found.length === 1) return first.context;
  if (!first) {
    throw new BackupError('ContextNotFound', `Expected backups of VM '${vm}', found none; see 'backupvm job list'`);
  }
  const where = found.map(
    (row) => `repository '${row.repository}', hypervisor '${row.hypervisor}' (folder ${row.context.directory})`,
  );
  throw new BackupError(
    'InvalidInput',
    `Expected backups of one VM '${vm}', found ${where.join('; ')}; say which in the fields 'repository' and 'hypervisor', or name one of its restore points in 'point'`,
  );
}

/** @throws TypeError when there is no such context: ids come from our own rows */
export async function getContext(db: Queryable, id: string): Promise<Context> {
  const [row] = await db.select().from(vmBackupContexts).where(eq(vmBackupContexts.id, id));
  if (!row) throw new TypeError(`Expected context ${id}, found no such row`);
  return row;
}

/** What the earlier restore points of this VM, and of its namesakes, mean for the plan. */
export async function contextFacts(db: Queryable, context: Context): Promise<ContextFacts> {
  const hasPoint = sql`exists (select 1 from ${backupJobs} where ${backupJobs.contextId} = ${vmBackupContexts.id} and ${backupJobs.status} = 'complete')`;
  const hasContext = async (...conditions: Parameters<typeof and>) =>
    (
      await db
        .select({ id: vmBackupContexts.id })
        .from(vmBackupContexts)
        .where(and(hasPoint, ...conditions))
        .limit(1)
    ).length > 0;
  return {
    hasPoints: await hasContext(eq(vmBackupContexts.id, context.id)),
    inOtherRepository: await hasContext(
      eq(vmBackupContexts.hypervisorId, context.hypervisorId),
      eq(vmBackupContexts.vmId, context.vmId),
      ne(vmBackupContexts.repositoryId, context.repositoryId),
    ),
    nameWasAnotherVM: await hasContext(
      eq(vmBackupContexts.hypervisorId, context.hypervisorId),
      eq(vmBackupContexts.vmName, context.vmName),
      eq(vmBackupContexts.repositoryId, context.repositoryId),
      ne(vmBackupContexts.vmId, context.vmId),
    ),
  };
}

export interface Head extends ParentFacts {
  diskKey: string;
}

/** The newest restore point of each disk of a context: what the next incrementals start from. */
export async function listHeads(db: Queryable, contextId: string): Promise<Head[]> {
  const chainLength = sql<number>`(
    with recursive chain(parent_id) as (
      select ${backupDisks.parentId}
      union all
      select ancestor.parent_id from ${backupDisks} as ancestor join chain on ancestor.id = chain.parent_id
    )
    select count(*)::integer from chain
  )`;
  return db
    .select({
      diskId: backupDisks.id,
      diskKey: backupDisks.diskKey,
      identity: backupDisks.identity,
      sizeBytes: backupDisks.sizeBytes,
      changeId: backupDisks.changeId,
      isDamaged: sql<boolean>`${backupDisks.damage} is not null`,
      isRestoredOver: backupDisks.isRestoredOver,
      isForgotten: backupDisks.isForgotten,
      chainLength,
    })
    .from(backupDisks)
    .where(and(eq(backupDisks.contextId, contextId), backupDisks.isHead));
}
