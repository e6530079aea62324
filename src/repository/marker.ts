import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { z } from 'zod';
import { BackupError } from '../domain/errors.js';
import { syncDirectory } from './durable.js';
import { errorCodeOf } from './file-errors.js';
import { link, open, readFile, requireAnswer, rm, stat, statfs } from './file-system.js';
import { probeWritable } from './probe.js';

/** Tells a repository from an empty mount point, and from another repository. */
export const markerName = '.backupvm-repository.json';

const marker = z.object({ format: z.literal(1), id: z.uuid(), name: z.string(), createdAt: z.string() });
export type Marker = z.output<typeof marker>;

/**
 * Makes a directory a repository. The directory must exist: a repository is never made inside a path that is not mounted.
 * @throws BackupError RepositoryUnusable; AlreadyExists when it has a marker file
 */
export async function createMarker(path: string, name: string): Promise<{ id: string }> {
  await requireDirectory(path);
  const content: Marker = { format: 1, id: randomUUID(), name, createdAt: new Date().toISOString() };
  const draft = join(path, `${markerName}.${content.id}`);
  try {
    const file = await open(draft, 'wx', 0o600);
    await file.writeFile(`${JSON.stringify(content, null, 2)}\n`);
    await file.sync();
    await file.close();
    await link(draft, join(path, markerName)); // whole or not at all, and never over one that is there
  } catch (error) {
    if (errorCodeOf(error) === 'EEXIST') {
      throw new BackupError(
        'AlreadyExists',
        `Expected no repository at ${path} yet, found the marker file ${markerName}`,
      );
    }
    throw unusable(path, `its marker file could not be written: ${String(error)}`, error);
  } finally {
    await rm(draft, { force: true });
  }
  await syncDirectory(path);
  return { id: content.id };
}

/** The marker of the repository at `path`, or undefined when it has none. @throws BackupError RepositoryUnusable */
export async function readMarker(path: string): Promise<Marker | undefined> {
  await requireAnswer('cat', join(path, markerName));
  await requireDirectory(path);
  let text: string;
  try {
    text = await readFile(join(path, markerName), 'utf8');
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return undefined;
    throw unusable(path, `its marker file could not be read: ${String(error)}`, error);
  }
  try {
    return marker.parse(JSON.parse(text));
  } catch (error) {
    throw unusable(
      path,
      `its marker file ${markerName} is damaged; put back {"format":1,"id":…,"name":…,"createdAt":…}`,
      error,
    );
  }
}

/** @throws BackupError RepositoryUnusable unless `path` is the very repository with this id */
export async function requireRepository(path: string, id: string): Promise<void> {
  const found = await readMarker(path);
  if (!found)
    throw unusable(path, `it has no marker file ${markerName}; is its file system mounted? Nothing was written`);
  if (found.id !== id) {
    throw unusable(
      path,
      `expected repository ${id}, found the marker file of ${found.id} ('${found.name}'); is the right file system mounted?`,
    );
  }
}

/**
 * Looks whether a backup could be written now.
 * @returns the bytes that are free
 * @throws BackupError RepositoryUnusable
 */
export async function probeRepository(path: string, id: string): Promise<{ freeBytes: number }> {
  await requireRepository(path, id);
  try {
    await probeWritable(path);
  } catch (error) {
    if (error instanceof BackupError) throw error;
    if (errorCodeOf(error) !== 'ENOSPC') throw unusable(path, `it cannot be written to: ${String(error)}`, error);
  }
  const { bavail, bsize } = await statfs(path);
  return { freeBytes: bavail * bsize };
}

async function requireDirectory(path: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    if (errorCodeOf(error) === 'ENOENT')
      throw unusable(path, 'it does not exist; make the directory, or mount its file system');
    throw unusable(path, String(error), error);
  });
  if (!found.isDirectory()) throw unusable(path, 'it is no directory');
}

function unusable(path: string, problem: string, cause?: unknown): BackupError {
  return new BackupError('RepositoryUnusable', `The repository at ${path} cannot be used: ${problem}`, { cause });
}
