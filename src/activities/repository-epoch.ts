import type { Database, Queryable } from '../db/database.js';
import { getRepository, lockRepository, type RepositoryRow } from '../db/repositories.js';
import { listRepositoriesOf } from '../db/survey.js';
import { BackupError } from '../domain/errors.js';
import { readEpoch, writeEpoch, type Epoch } from '../repository/epoch.js';
import { describeFileFailure } from '../repository/file-errors.js';
import { requireRepository } from '../repository/marker.js';

type Place = Pick<RepositoryRow, 'id' | 'path'>;

/**
 * Requires that the database knows all that has happened in a repository: before anything there is changed, and again before a step
 * that changed it reports success. An epoch file that lags behind is brought up. Safe to repeat.
 * @throws BackupError RepositoryAhead when the database is older than the repository, or another one has written there
 */
export async function requireCurrent(db: Database, repository: Place): Promise<void> {
  const { row, found } = await requireNotOlder(db, repository);
  if (found?.epoch !== row.epoch) await raiseEpoch(db, repository);
}

/** The same, which writes nothing. @throws BackupError RepositoryAhead */
export async function requireNotOlder(
  db: Queryable,
  repository: Place,
): Promise<{ row: RepositoryRow; found: Epoch | undefined }> {
  const found = await readEpoch(repository.path); // before the row: a seal in between would look like an older database
  const row = await getRepository(db, repository.id);
  requireNotAhead(row, found);
  return { row, found };
}

/** What keeps the repositories of a host from being changed: the database is older than they are. Those that cannot be reached are left out. */
export async function findOlderRecords(db: Queryable, host: string): Promise<BackupError[]> {
  const problems: BackupError[] = [];
  for (const repository of await listRepositoriesOf(db, host)) {
    try {
      await requireRepository(repository.path, repository.id);
      await requireNotOlder(db, repository);
    } catch (error) {
      if (!(error instanceof BackupError)) throw error;
      if (error.code === 'RepositoryAhead') problems.push(error);
    }
  }
  return problems;
}

/** Under the lock of the row, so that of two workers none takes the file back. */
async function raiseEpoch(db: Database, { id, path }: Place): Promise<void> {
  try {
    await db.transaction(async (tx) => {
      const row = await lockRepository(tx, id);
      const found = await readEpoch(path);
      requireNotAhead(row, found);
      if (found?.epoch !== row.epoch) await writeEpoch(path, epochOf(row));
    });
  } catch (error) {
    // A full repository must still be cleaned up. A file that lags is only less of a guard, and is brought up next time.
    if (describeFileFailure(error)?.code !== 'RepositoryFull') throw error;
  }
}

/** Whether a repository knows what the database does not. A damaged epoch file cannot say that it does not. */
export async function isRepositoryAhead(db: Database, { id, path }: Place): Promise<boolean> {
  const found = await readEpochOrDamage(path);
  return found === 'damaged' || problemOf(await getRepository(db, id), found) !== undefined;
}

/** Makes the database the one that writes to a repository, once everything that lies there is recorded. Safe to repeat. */
export async function takeOverRepository(db: Database, { id, path }: Place): Promise<void> {
  await db.transaction(async (tx) => {
    const found = await readEpochOrDamage(path);
    const epoch = found === undefined || found === 'damaged' ? 0 : found.epoch;
    await writeEpoch(path, epochOf(await lockRepository(tx, id, { atLeast: epoch })));
  });
}

function epochOf({ epoch, registrationId }: RepositoryRow): Epoch {
  return { epoch, registration: registrationId };
}

async function readEpochOrDamage(path: string): Promise<Epoch | 'damaged' | undefined> {
  try {
    return await readEpoch(path);
  } catch (error) {
    if (error instanceof BackupError && error.code === 'RepositoryUnusable') return 'damaged';
    throw error;
  }
}

function requireNotAhead(row: RepositoryRow, found: Epoch | undefined): void {
  const problem = problemOf(row, found);
  if (problem === undefined) return;
  throw new BackupError(
    'RepositoryAhead',
    `cannot change repository '${row.name}': ${problem}; nothing there was touched, run 'backupvm repository import ${row.path}'`,
  );
}

function problemOf({ epoch, registrationId }: RepositoryRow, found: Epoch | undefined): string | undefined {
  if (found === undefined) return undefined;
  if (found.registration !== registrationId) {
    return `another database wrote to it (registration ${found.registration}, this one has ${registrationId}), so this one may not know all its restore points`;
  }
  if (found.epoch <= epoch) return undefined;
  return `the database is older than the repository (epoch ${epoch} against ${found.epoch}), so it does not know all its restore points`;
}
