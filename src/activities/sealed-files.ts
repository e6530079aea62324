import { relative } from 'node:path';
import type { BackupDisk } from '../db/disks.js';
import type { RepositoryRow } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { manifestPath } from '../domain/names.js';
import { findDescendants } from '../repository/backing-file.js';
import { fileFacts, insideRepository, unlessMissing } from '../repository/files.js';
import type { JobRows } from './job-rows.js';

// What the repository itself says of a file, before the file goes: it is believed more than a row, which may be older.

/** For files that are sealed although the database does not know it. */
export function repositoryAhead({ name, path }: Pick<RepositoryRow, 'name' | 'path'>, claim: string): BackupError {
  return new BackupError(
    'RepositoryAhead',
    `cannot change repository '${name}': ${claim}, which the database does not know; it was left as it is, run 'backupvm repository import ${path}'`,
  );
}

/**
 * Why the files of a job that is not sealed by its row must stay: a manifest under its final name, which is written after the seal, or
 * a file that was built upon one of them. Undefined when there is no reason.
 */
export async function findClaim(rows: JobRows, disks: readonly BackupDisk[]): Promise<string | undefined> {
  const { path: root } = rows.repository;
  return (await findSealedManifest(rows)) ?? findUnknownDescendant(root, disks, []);
}

/** A manifest that says that a job was sealed, or that another one has the same place; whatever it holds. */
export async function findSealedManifest({ job, context, repository }: JobRows): Promise<string | undefined> {
  const path = manifestPath(context.directory, job.pointTime);
  const found = await unlessMissing(() => fileFacts(insideRepository(repository.path, path)));
  return found && `restore point ${job.id} has a manifest, ${path}`;
}

/** A finished file that needs one of these disks and is none of those that are known to. */
export async function findUnknownDescendant(
  root: string,
  disks: readonly Pick<BackupDisk, 'path'>[],
  known: readonly Pick<BackupDisk, 'path'>[],
): Promise<string | undefined> {
  const knownPaths = new Set([...disks, ...known].map(({ path }) => path));
  const found = await findDescendants(disks.map(({ path }) => insideRepository(root, path)));
  const unknown = found.find(({ path }) => !knownPaths.has(relative(root, path)));
  return unknown && `${relative(root, unknown.path)} has ${relative(root, unknown.backingPath)} as its backing file`;
}
