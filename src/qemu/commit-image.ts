import { basename, dirname } from 'node:path';
import { BackupError } from '../domain/errors.js';
import type { ProcessIdentity } from '../process/identity.js';
import { runWithProgress } from '../process/run-with-progress.js';
import { run } from '../process/run.js';
import { imageReference, type ImageFiles } from './image-reference.js';
import { progressOf, throwIfLocked } from './qemu-img.js';

/** Reads both disks whole: the largest ones on the slowest repositories. */
const compareTimeoutMs = 24 * 3_600_000;

export interface CommitRequest {
  /** The file that receives the data. */
  base: string;
  /** The file from which on back to the base all data are written into the base. It stays as it is. */
  top: string;
  onStart: (identity: ProcessIdentity) => Promise<void>;
  /** Hears how far it is, from 0 to 1. */
  onProgress: (fraction: number) => void;
  signal: AbortSignal;
}

/**
 * Writes the data of a file, and of all between, into one that it builds upon; grows that one where it is smaller. What it reads
 * stays as it is, so `top` reads right at any moment, and it may run again after it was killed. What was in the base is gone from
 * the first byte on.
 * @throws BackupError ExportFailed when somebody else has one of the files open; RepositoryFull; ToolFailed
 */
export async function commitImage({ base, top, onStart, onProgress, signal }: CommitRequest): Promise<void> {
  const args = ['commit', '-p', '-f', 'qcow2', '-d', '-b', base, top];
  const onLine = (line: string) => {
    const fraction = progressOf(line);
    if (fraction !== undefined) onProgress(fraction);
  };
  const outcome = await runWithProgress('qemu-img', args, { signal, onStart, onLine, reportsOnStdout: true });
  if (outcome.exitCode === 0) return;
  throwIfLocked(top, outcome);
  const said = outcome.stderr.trim().slice(0, 2000);
  if (/No space left on device/.test(said)) {
    throw new BackupError('RepositoryFull', `The repository ran out of space while ${base} grew: ${said}; free some`);
  }
  throw new BackupError(
    'ToolFailed',
    `Expected the data of ${basename(top)} in ${basename(base)} (in ${dirname(base)}), qemu-img commit failed with exit code ${outcome.exitCode}: ${said}`,
  );
}

/** Whether two images read the same through their chains. */
export async function haveSameContent(one: ImageFiles, other: ImageFiles, signal: AbortSignal): Promise<boolean> {
  const args = ['compare', '-q', imageReference(one), imageReference(other)];
  const outcome = await run('qemu-img', args, { signal, timeoutMs: compareTimeoutMs });
  if (outcome.exitCode <= 1) return outcome.exitCode === 0;
  throwIfLocked(other[0], outcome);
  throw new BackupError('ToolFailed', `qemu-img compare failed with exit code ${outcome.exitCode}: ${outcome.stderr}`);
}
