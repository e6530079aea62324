import { dirname, isAbsolute, join, normalize, relative } from 'node:path';
import { BackupError } from '../domain/errors.js';
import { runOrThrow } from '../process/run.js';
import { syncDirectory, syncFile } from './durable.js';
import { errorCodeOf } from './file-errors.js';
import { link, lstat, mkdir, rm, rmdir, stat } from './file-system.js';

/** The place of a path from our rows. @throws BackupError RepositoryUnusable when it would lead out of the repository */
export function insideRepository(root: string, path: string): string {
  const found = normalize(path);
  if (path === '.' || isAbsolute(path) || found !== path || found.split('/').includes('..')) {
    throw new BackupError(
      'RepositoryUnusable',
      `Expected a path within the repository ${root}, found '${path}'; the row has been tampered with`,
    );
  }
  return join(root, found);
}

/**
 * Makes the folder of a file, durably. Safe to repeat. The root itself is never made: it may be an empty mount point.
 * @throws BackupError RepositoryUnusable, as `requirePlainFolders`
 */
export async function makeFolder(root: string, path: string): Promise<void> {
  for (const folder of foldersAbove(root, path)) {
    try {
      await mkdir(folder, { mode: 0o700 });
    } catch (error) {
      if (errorCodeOf(error) !== 'EEXIST') throw error;
    }
    await requirePlainFolder(folder);
    await syncDirectory(dirname(folder)); // also for one whose maker was killed before it did
  }
}

/**
 * Looks at the folders in which a file is about to be written: through one that is a link, the file would land outside the
 * repository, and no one could delete it again.
 * @throws BackupError RepositoryUnusable
 */
export async function requirePlainFolders(root: string, path: string): Promise<void> {
  for (const folder of foldersAbove(root, path)) await requirePlainFolder(folder);
}

async function requirePlainFolder(folder: string): Promise<void> {
  const found = await lstat(folder);
  if (found.isDirectory()) return;
  const fact = found.isSymbolicLink() ? 'it is a link' : 'it is not a directory';
  throw new BackupError(
    'RepositoryUnusable',
    `cannot write to the folder ${folder}: ${fact}; replace it by a directory, or register the directory that it leads to`,
  );
}

/** The folders from the root, which is not among them, down to a file. */
function foldersAbove(root: string, path: string): string[] {
  const folders: string[] = [];
  for (let folder = dirname(insideRepository(root, path)); relative(root, folder) !== ''; folder = dirname(folder))
    folders.unshift(folder);
  return folders;
}

export interface FileFacts {
  fileBytes: number;
  fileModifiedMs: number;
}

/** Size and modification time of a file, or undefined when there is none. */
export async function fileFacts(path: string): Promise<FileFacts | undefined> {
  try {
    const { size, mtimeMs } = await stat(path);
    return { fileBytes: size, fileModifiedMs: Math.floor(mtimeMs) };
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** The SHA-256 of a file as `sha256:<hex>`. openssl, because Debian's sha256sum is built without SHA extensions: three times slower. */
export async function fileChecksum(path: string, signal: AbortSignal): Promise<string> {
  // 24 h: the largest disks on the slowest repositories; a worker that dies is noticed by its heartbeat long before.
  const { stdout } = await runOrThrow('openssl', ['dgst', '-sha256', '-r', path], {
    signal,
    timeoutMs: 24 * 3_600_000,
  });
  const digest = /^[0-9a-f]{64}/.exec(stdout)?.[0];
  if (!digest) throw new TypeError(`Expected openssl to print a digest of ${path}, got '${stdout}'`);
  return `sha256:${digest}`;
}

/**
 * Gives a finished attempt its final name, durably, and never over a file that is there. Safe to repeat.
 * @throws BackupError AlreadyExists when another file has the name; TypeError when neither name is there
 */
export async function moveIntoPlace(attempt: string, final: string): Promise<void> {
  if (attempt !== final && (await fileFacts(attempt))) {
    await syncFile(attempt);
    await giveName(attempt, final);
  } else if (!(await fileFacts(final))) {
    throw new TypeError(`Expected the finished file ${attempt}, or ${final}, found neither`);
  }
  await syncDirectory(dirname(final));
}

/**
 * Gives a file another name instead of its own, never over a file that is there. Safe to repeat, also after a crash between the
 * two names. By a link, because a rename replaces what it finds: repositories are made only where links are known (`createMarker`).
 * @throws BackupError AlreadyExists
 */
export async function giveName(file: string, name: string): Promise<void> {
  try {
    await link(file, name);
  } catch (error) {
    if (errorCodeOf(error) !== 'EEXIST') throw error;
    if (!(await areOneFile(file, name))) {
      throw new BackupError(
        'AlreadyExists',
        `cannot name a finished file ${name}: another file has that name, and may be part of a restore point; it was left as it is`,
      );
    }
  }
  await syncDirectory(dirname(name));
  await rm(file, { force: true });
}

/** Whether two names are of one file. @returns undefined when one of them is not there */
export async function areOneFile(one: string, other: string): Promise<boolean | undefined> {
  try {
    const [first, second] = [await stat(one, { bigint: true }), await stat(other, { bigint: true })];
    return first.ino === second.ino && first.dev === second.dev;
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Removes a file, durably. One that is not there is success, and so is a folder that is not. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true });
  await syncDirectory(dirname(path)).catch((error: unknown) => {
    if (errorCodeOf(error) !== 'ENOENT') throw error;
  });
}

/** Removes the folders above a path that are empty, up to the root. None below a link, which leads to others' folders. Safe to repeat. */
export async function removeEmptyFolders(root: string, path: string): Promise<void> {
  const folders: string[] = [];
  for (const folder of foldersAbove(root, path)) {
    const found = await unlessMissing(() => lstat(folder));
    if (found && !found.isDirectory()) return;
    if (found) folders.unshift(folder);
  }
  for (const folder of folders) {
    try {
      await rmdir(folder);
    } catch (error) {
      if (errorCodeOf(error) === 'ENOTEMPTY') return;
      if (errorCodeOf(error) !== 'ENOENT') throw error;
    }
  }
}

/** Undefined where there is nothing of that name, or where a file stands in the place of its folder. */
export async function unlessMissing<T>(look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errorCodeOf(error) ?? '')) return undefined;
    throw error;
  }
}
