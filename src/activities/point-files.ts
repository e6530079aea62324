import type { Context } from '../db/contexts.js';
import type { BackupDisk } from '../db/disks.js';
import type { Job } from '../db/jobs.js';
import type { RepositoryRow } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { diskFilePath, hashesFilePath, manifestPath } from '../domain/names.js';
import { fileFacts, removeEmptyFolders, removeFile } from '../repository/files.js';
import { readManifest, removeManifest } from '../repository/manifest.js';
import { requireOwnFile } from '../repository/own-files.js';
import { repositoryAhead } from './sealed-files.js';

/** One VM in one repository: where its files lie. */
export interface PointFolder {
  context: Context;
  repository: RepositoryRow;
}

/**
 * The place of a disk's file, which is to be changed or removed.
 * @throws BackupError RepositoryUnusable when the row says another one than our own rules do; nothing was touched
 */
export async function ownDiskFile(
  { context, repository }: PointFolder,
  disk: Pick<BackupDisk, 'path' | 'diskKey'>,
  pointTime: Date,
): Promise<string> {
  requireOneFolder(context, repository);
  return requireOwnFile(repository.path, disk.path, diskFilePath(context.directory, disk.diskKey, pointTime));
}

/** The place of a restore point's manifest, which is to be written anew or removed. @throws BackupError RepositoryUnusable, as `ownDiskFile` */
export async function ownManifest({ context, repository }: PointFolder, pointTime: Date): Promise<string> {
  requireOneFolder(context, repository);
  const path = manifestPath(context.directory, pointTime);
  return requireOwnFile(repository.path, path, path);
}

/**
 * Removes a restore point's manifest: from here on it is no restore point, whatever is left of its files. Safe to repeat.
 * @throws BackupError RepositoryAhead when the manifest is that of another point
 */
export async function removePointManifest(folder: PointFolder, job: Job): Promise<void> {
  const path = await ownManifest(folder, job.pointTime);
  if (await fileFacts(path)) {
    const read = await readManifest(path);
    if ('manifest' in read && read.manifest.jobId !== job.id) {
      throw repositoryAhead(folder.repository, `${path} is the manifest of restore point ${read.manifest.jobId}`);
    }
  }
  await removeManifest(path);
}

/** Removes the files of a restore point, and folders that hold nothing any more. Nobody may need them. Safe to repeat. */
export async function removePointFiles(folder: PointFolder, job: Job, disks: readonly BackupDisk[]): Promise<void> {
  const root = folder.repository.path;
  for (const disk of disks) {
    const file = await ownDiskFile(folder, disk, job.pointTime);
    await removeFile(file);
    await removeFile(hashesFilePath(file));
    await removeEmptyFolders(root, disk.path);
  }
  await removeEmptyFolders(root, manifestPath(folder.context.directory, job.pointTime));
}

function requireOneFolder({ id, directory }: Context, { name }: RepositoryRow): void {
  if (/^[\w%~.-]+$/.test(directory) && !/^\.*$/.test(directory)) return;
  throw new BackupError(
    'RepositoryUnusable',
    `Expected the name of one folder of repository '${name}' in context ${id}, found '${directory}'; the row has been tampered with, nothing was touched`,
  );
}
