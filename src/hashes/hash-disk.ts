import { rename, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { BackupError, errorCodes, type ErrorCode } from '../domain/errors.js';
import { runModule } from '../process/run-module.js';
import type { ImageFiles } from '../qemu/image-reference.js';
import { draftPath, syncDirectory } from '../repository/durable.js';
import { removeFile } from '../repository/files.js';
import type { Compared } from './compare-table.js';
import type { HasherOrder } from './hasher.js';
import type { HashesFile, Written } from './write-table.js';

interface HashRequest {
  /** Ends the work, at the latest 10 s later; it takes as long as it must otherwise. */
  signal: AbortSignal;
  /** From 0 to 1, ever rising. */
  onProgress?: ((fraction: number) => void) | undefined;
}

export interface WriteHashesRequest extends HashRequest {
  files: ImageFiles;
  format: 'qcow2';
  hashesFile: string;
  /** Of the backing file: what the file itself does not touch is carried over from there, if it is as it was sealed. */
  parentHashes: HashesFile | undefined;
}

/**
 * Writes the hashes of every block of a virtual disk beside its file, durably, by a process of its own. Safe to repeat.
 * @throws BackupError ImageDamaged, RepositoryFull, ToolFailed
 */
export async function writeBlockHashes({
  hashesFile,
  parentHashes,
  files,
  ...request
}: WriteHashesRequest): Promise<{ hashedBlocks: number }> {
  const final = resolve(hashesFile);
  const draft = draftPath(final);
  await rm(draft, { force: true }); // of an attempt that died
  const parent = parentHashes ? { ...parentHashes, path: resolve(parentHashes.path) } : null;
  const order = { mode: 'write', files, format: 'qcow2', draft, parentHashes: parent } as const;
  const { hashedBlocks, inode } = await runHasher<Written>(order, request);
  const found = await stat(draft, { bigint: true });
  if (String(found.ino) !== inode) {
    throw new BackupError(
      'ToolFailed',
      `Expected ${draft} as it was written, found another one: a newer attempt has begun`,
    );
  }
  await rename(draft, final);
  await syncDirectory(dirname(final));
  return { hashedBlocks };
}

/** Removes a table, and one that was not finished. Safe to repeat. */
export async function removeHashes(hashesFile: string): Promise<void> {
  await removeFile(draftPath(hashesFile));
  await removeFile(hashesFile);
}

export interface CompareHashesRequest extends HashRequest {
  files: ImageFiles;
  format: 'qcow2' | 'raw';
  hashesFile: string;
}

/**
 * Reads a virtual disk through its chain and compares every block with its recorded hash, by a process of its own.
 * @returns also when blocks differ
 * @throws BackupError PointDamaged when the hashes themselves are missing, cut off, or of a disk of another size; ToolFailed
 */
export async function compareBlockHashes({
  files,
  format,
  hashesFile,
  ...request
}: CompareHashesRequest): Promise<Compared> {
  const order = { mode: 'compare', files, format, hashesFile: resolve(hashesFile) } as const;
  return runHasher<Compared>(order, request);
}

type Line<T> = { fraction: number } | { result: T };

async function runHasher<T>(order: HasherOrder, { signal, onProgress }: HashRequest): Promise<T> {
  let result: T | undefined;
  const onLine = (text: string) => {
    const line = parseLine<T>(text);
    if (line && 'result' in line) result = line.result;
    else if (line) onProgress?.(line.fraction);
  };
  // The module beside this one: TypeScript when run from source, JavaScript when built.
  const module = new URL(import.meta.url.endsWith('.ts') ? './hasher.ts' : './hasher.js', import.meta.url);
  const { exitCode, stderr } = await runModule(module, order, { signal, onLine });
  if (exitCode === 0 && result !== undefined) return result;
  throw failureOf(order.files[0], exitCode, stderr);
}

/** Undefined for a line that was cut off, because the process was killed while it wrote it: its end says more. */
function parseLine<T>(text: string): Line<T> | undefined {
  try {
    return JSON.parse(text) as Line<T>;
  } catch {
    return undefined;
  }
}

/** What the process said went wrong. */
function failureOf(file: string, exitCode: number, said: string): BackupError {
  try {
    const { code, message } = JSON.parse(said) as { code: ErrorCode; message: string };
    if (code in errorCodes) return new BackupError(code, message);
  } catch {
    // It came to no end of its own: it says so in whatever words it has.
  }
  return new BackupError('ToolFailed', `Hashing ${file} ended with exit code ${exitCode}: ${said.slice(0, 2000)}`);
}
