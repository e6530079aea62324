import { dirname, isAbsolute, join, normalize, relative } from 'node:path';
import { BackupError } from '../domain/errors.js';
import { runOrThrow } from '../process/run.js';
import { syncDirectory, syncFile } from './durable.js';
import { errorCodeOf } from './file-errors.js';
import { mkdir, rename, rm, rmdir, stat } from './file-system.js';

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

/** Makes the folder of a file, durably. Safe to repeat. The root itself is never made: it may be an empty mount point. */
export async function makeFolder(root: string, path: string): Promise<void> {
  const folders: string[] = [];
  for (let folder = dirname(insideRepository(root, path)); relative(root, folder) !== ''; folder = dirname(folder))
    folders.unshift(folder);
  for (const folder of folders) {
    try {
      await mkdir(folder);
      await syncDirectory(dirname(folder));
    } catch (error) {
      if (errorCodeOf(error) !== 'EEXIST') throw error;
    }
  }
}

/** Size and modification time of a file, or undefined when there is none. */
export async function fileFacts(path: string): Promise<{ fileBytes: number; fileModifiedMs: number } | undefined> {
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

/** Gives a finished attempt its final name, durably. Safe to repeat. @throws TypeError when neither name is there */
export async function moveIntoPlace(attempt: string, final: string): Promise<void> {
  if (await fileFacts(attempt)) {
    await syncFile(attempt);
    await rename(attempt, final);
  } else if (!(await fileFacts(final))) {
    throw new TypeError(`Expected the finished file ${attempt}, or ${final}, found neither`);
  }
  await syncDirectory(dirname(final));
}

/** Removes a file, durably. One that is not there is success, and so is a folder that is not. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true });
  await syncDirectory(dirname(path)).catch((error: unknown) => {
    if (errorCodeOf(error) !== 'ENOENT') throw error;
  });
}

/** Removes the folders above a path that hold nothing any more, up to the root. Safe to repeat. */
export async function removeEmptyFolders(root: string, path: string): Promise<void> {
  for (let folder = dirname(insideRepository(root, path)); relative(root, folder) !== ''; folder = dirname(folder)) {
    try {
      await rmdir(folder);
    } catch (error) {
      if (errorCodeOf(error) === 'ENOTEMPTY') return;
      if (errorCodeOf(error) !== 'ENOENT') throw error;
    }
  }
}
