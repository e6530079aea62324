import { eq, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { type Database, type Queryable, violatesUnique } from './database.js';
import { repositories, vmBackupContexts } from './schema.js';

export type RepositoryRow = typeof repositories.$inferSelect;

/** @throws BackupError AlreadyExists when the name, the id, or the path on this host is taken */
export async function addRepository(
  db: Database,
  values: { id: string; name: string; host: string; path: string },
): Promise<RepositoryRow> {
  try {
    const [row] = await db.insert(repositories).values(values).returning();
    if (!row) throw new TypeError('Expected the inserted repository, found no row');
    return row;
  } catch (error) {
    if (violatesUnique(error, 'repositories_name_unique')) {
      throw new BackupError(
        'AlreadyExists',
        `A repository named '${values.name}' is registered already; choose another name`,
      );
    }
    if (violatesUnique(error, 'repositories_pkey')) throw await alreadyRegistered(db, values);
    if (violatesUnique(error, 'repositories_host_path')) {
      throw new BackupError(
        'AlreadyExists',
        `Expected a repository at ${values.path} that is not registered already, found another marker file there than that of the one that is; see 'backupvm repository list'`,
      );
    }
    throw error;
  }
}

/** By its id: a directory has one host. Another one sees it over the network, or as a copy, and would write into it beside the first. */
async function alreadyRegistered(
  db: Queryable,
  given: { id: string; host: string; path: string },
): Promise<BackupError> {
  const owner = await getRepository(db, given.id);
  const next =
    owner.host === given.host
      ? `see 'backupvm repository list'`
      : `back up to it through host '${owner.host}', or choose a directory of host '${given.host}' alone`;
  return new BackupError(
    'AlreadyExists',
    `Expected ${given.path} on host '${given.host}' to be no repository yet, found the marker file of '${owner.name}' (${owner.id}), which is registered already, on host '${owner.host}' at ${owner.path}; ${next}`,
  );
}

export async function listRepositories(db: Queryable): Promise<RepositoryRow[]> {
  return db.select().from(repositories).orderBy(repositories.name);
}

/**
 * The repository of that name; without a name, the only one.
 * @throws BackupError RepositoryNotFound, which lists those there are
 */
export async function chooseRepository(db: Queryable, name: string | undefined): Promise<RepositoryRow> {
  const all = await listRepositories(db);
  const chosen = name === undefined && all.length === 1 ? all[0] : all.find((row) => row.name === name);
  if (chosen) return chosen;
  const names = all.map((row) => `'${row.name}'`);
  if (names.length === 0) {
    throw new BackupError('RepositoryNotFound', `No repository is registered; add one with 'backupvm repository add'`);
  }
  throw new BackupError(
    'RepositoryNotFound',
    name === undefined
      ? `${names.length} repositories are registered (${names.join(', ')}); say which in the field 'repository'`
      : `Expected a registered repository, found no '${name}'; registered: ${names.join(', ')}`,
  );
}

/** @throws BackupError RepositoryNotFound */
export async function getRepository(db: Queryable, id: string): Promise<RepositoryRow> {
  const [row] = await db.select().from(repositories).where(eq(repositories.id, id));
  if (!row) throw new BackupError('RepositoryNotFound', `Expected repository ${id}, found no such row`);
  return row;
}

/**
 * Locks a repository's row until the transaction ends: nobody else moves its epoch meanwhile. Who takes it takes it first, before rows
 * of jobs. Rows that refer to it can still be inserted.
 * @param atLeast an epoch that the row is raised to
 */
export async function lockRepository(
  tx: Queryable,
  id: string,
  { atLeast = 0 }: { atLeast?: number } = {},
): Promise<RepositoryRow> {
  const epoch = sql`greatest(${repositories.epoch}, ${atLeast}::bigint)`;
  const [row] = await tx.update(repositories).set({ epoch }).where(eq(repositories.id, id)).returning();
  if (!row) throw new BackupError('RepositoryNotFound', `Expected repository ${id}, found no such row`);
  return row;
}

/**
 * Moves the epoch of the repository that a context is in, and locks its row as `lockRepository` does. In every transaction that makes,
 * changes or removes restore points: an older database is known by it.
 */
export async function moveEpoch(tx: Queryable, contextId: string): Promise<void> {
  const owner = tx
    .select({ id: vmBackupContexts.repositoryId })
    .from(vmBackupContexts)
    .where(eq(vmBackupContexts.id, contextId));
  await tx
    .update(repositories)
    .set({ epoch: sql`${repositories.epoch} + 1` })
    .where(eq(repositories.id, owner));
}
