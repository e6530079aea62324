import { basename, dirname, join, relative } from 'node:path';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import { messageOf } from '../domain/message-of.js';
import { restoreSiblings } from '../domain/names.js';
import { requireUnlocked } from '../qemu/qemu-img.js';
import { describeFileFailure, errorCodeOf } from '../repository/file-errors.js';
import { lstat, realpath, requireAnswer, stat, statfs } from '../repository/file-system.js';
import { probeWritable } from '../repository/probe.js';

/** The files of one restored disk. */
export interface RestorePaths {
  path: string;
  attemptPath: string;
  /** Null where no file is replaced. */
  keptPath: string | null;
}

/**
 * The files that a disk is restored with.
 * @throws BackupError AlreadyExists when there is one and `overwrite` is not set, VMRunning when a process has it open for
 * writing, TargetUnusable when something else is in the way
 */
export async function pathsFor(
  path: string,
  { leaseId, target, overwrite }: { leaseId: string; target: string; overwrite: boolean },
  signal: AbortSignal,
): Promise<RestorePaths> {
  const { attemptPath, keptPath } = restoreSiblings(path, leaseId, target);
  const found = await fileAt(path);
  if (await isLink(path)) throw unusable(path, 'it is a link, and what it leads to would not be replaced; remove it');
  if (!found) return { path, attemptPath, keptPath: null };
  if (!found.isFile()) throw unusable(path, 'it is no plain file');
  if (!overwrite) {
    throw new BackupError(
      'AlreadyExists',
      `Expected no file ${path} yet, found one; it was left as it is. Restore elsewhere, or say overwrite`,
    );
  }
  await requireUnlocked(path, signal);
  return { path, attemptPath, keptPath };
}

async function isLink(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isSymbolicLink();
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return false;
    throw unusable(path, messageOf(error));
  }
}

/** What is at a path, or undefined. */
export async function fileAt(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return undefined;
    throw unusable(path, messageOf(error));
  }
}

/**
 * Does something with the files of a restored disk.
 * @throws BackupError TargetUnusable, TargetFull where the file system refuses, or does not answer
 */
export async function atTarget<T>(path: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    const known = error instanceof BackupError ? error : describeFileFailure(error);
    if (known?.code === 'RepositoryUnusable') throw unusable(path, known.message);
    if (known?.code !== 'RepositoryFull') throw error;
    throw new BackupError('TargetFull', `No space was left for ${path}; free some, or restore elsewhere`);
  }
}

/** A path without links in it, also where its last part is not there. @throws BackupError TargetUnusable */
export async function resolvedPath(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (errorCodeOf(error) !== 'ENOENT') throw unusable(path, messageOf(error));
  }
  return join(await usableDirectory(dirname(path)), basename(path));
}

/** The directory without links in its path. @throws BackupError TargetUnusable when nothing can be written there */
export async function usableDirectory(path: string): Promise<string> {
  let directory: string;
  try {
    await requireAnswer('cat', path);
    directory = await realpath(path);
    if (!(await stat(directory)).isDirectory()) throw unusable(path, 'it is no directory');
  } catch (error) {
    if (error instanceof BackupError && error.code === 'TargetUnusable') throw error;
    throw unusable(path, errorCodeOf(error) === 'ENOENT' ? 'it does not exist; make it first' : messageOf(error));
  }
  try {
    await probeWritable(directory);
  } catch (error) {
    if (errorCodeOf(error) === 'ENOSPC') throw new BackupError('TargetFull', `No space is left in ${directory}`);
    throw unusable(path, `it cannot be written to: ${messageOf(error)}`);
  }
  return directory;
}

/** @throws BackupError TargetUnusable for a path in a repository: what is there is no place for disks that change */
export async function requireOutside(
  path: string,
  repositories: readonly { name: string; path: string }[],
): Promise<void> {
  for (const { name, path: root } of repositories) {
    const inside = relative(await realpath(root).catch(() => root), path);
    if (inside === '' || !/^\.\.(\/|$)/.test(inside)) throw unusable(path, `it lies in repository '${name}'`);
  }
}

/** @throws BackupError TargetFull when the files do not fit, with what is needed and what is free */
export async function requireSpace(files: readonly { path: string; requiredBytes: number }[]): Promise<void> {
  const needs = new Map<number, { directory: string; requiredBytes: number }>();
  for (const { path, requiredBytes } of files) {
    const directory = dirname(path);
    const { dev } = await atTarget(directory, () => stat(directory));
    const need = needs.get(dev) ?? { directory, requiredBytes: 0 };
    needs.set(dev, { ...need, requiredBytes: need.requiredBytes + requiredBytes });
  }
  for (const { directory, requiredBytes } of needs.values()) {
    const { bavail, bsize } = await atTarget(directory, () => statfs(directory));
    const freeBytes = bavail * bsize;
    if (freeBytes >= requiredBytes) continue;
    throw new BackupError(
      'TargetFull',
      `Expected ${formatBytes(requiredBytes)} free at ${directory} for the restored disks, found ${formatBytes(freeBytes)}; free some, or restore elsewhere`,
    );
  }
}

function unusable(path: string, problem: string): BackupError {
  return new BackupError('TargetUnusable', `${path} cannot be restored to: ${problem}`);
}
