import { resolve } from 'node:path';
import { z } from 'zod';
import { BackupError } from '../domain/errors.js';
import type { ProcessIdentity } from '../process/identity.js';
import type { Outcome } from '../process/run.js';
import { parseOutput, run, runForJSON } from '../process/run.js';
import { runWithProgress } from '../process/run-with-progress.js';
import { imageReference, type ImageFiles } from './image-reference.js';
import { progressOf, throwIfLocked } from './qemu-img.js';

/** Reads the maps of a whole chain: minutes for files of many TiB. */
const mapTimeoutMs = 3_600_000;

export type ImageFormat = 'qcow2' | 'raw';

export interface ConvertRequest {
  /** A QCOW2 file and its chain. */
  source: ImageFiles;
  /** Written from the beginning, holes where the disk reads as zeros. */
  target: string;
  format: ImageFormat;
  signal: AbortSignal;
  /** Hears who writes; when it throws, the program is killed. */
  onStart: (identity: ProcessIdentity) => Promise<void>;
  /** Hears how far it is, from 0 to 1. */
  onProgress: (fraction: number) => void;
}

/**
 * Writes a disk, whole, into a file of its own. It is killed when this process dies. Its exit code says nothing of what was
 * written: the caller compares.
 * @throws BackupError TargetFull, ToolFailed; or `signal.reason`
 */
export async function convertImage(request: ConvertRequest): Promise<void> {
  let outcome = await convert(request, ['-t', 'none', '-T', 'none']); // past the page cache: a restore is read once
  // Not every file system can do that.
  if (outcome.exitCode !== 0 && /O_DIRECT/.test(outcome.stderr)) outcome = await convert(request, []);
  if (outcome.exitCode === 0) return;
  const said = outcome.stderr.trim().slice(0, 2000);
  if (/No space left on device|Disk quota exceeded/.test(said)) {
    throw new BackupError(
      'TargetFull',
      `No space was left for ${request.target}: ${said}; free some, or restore elsewhere`,
    );
  }
  throw new BackupError('ToolFailed', `qemu-img convert of ${request.source[0]} failed: ${said}`);
}

async function convert(
  { source, target, format, signal, onStart, onProgress }: ConvertRequest,
  cache: string[],
): Promise<Outcome> {
  const files = ['-O', format, imageReference(source), resolve(target)];
  return runWithProgress('qemu-img', ['convert', '-p', '-W', '-m', '16', ...cache, ...files], {
    signal,
    onStart,
    onLine: (line) => {
      const fraction = progressOf(line);
      if (fraction !== undefined) onProgress(fraction);
    },
    reportsOnStdout: true,
  });
}

/**
 * How many bytes a file of this format needs to hold what a QCOW2 file and its chain hold.
 * @throws BackupError ToolFailed, with an `exitCode` in its details when qemu-img cannot read a file of the chain; ExportFailed
 * when another process writes to one
 */
export async function measureImage(files: ImageFiles, format: ImageFormat, signal: AbortSignal): Promise<number> {
  const args = ['measure', '--output=json', '-O', format, imageReference(files)];
  const outcome = await run('qemu-img', args, { signal, timeoutMs: mapTimeoutMs });
  if (outcome.exitCode !== 0) {
    throwIfLocked(files[0], outcome);
    throw new BackupError('ToolFailed', `qemu-img measure failed: ${outcome.stderr.trim().slice(0, 2000)}`, {
      details: { exitCode: outcome.exitCode },
    });
  }
  return z.object({ required: z.number() }).parse(parseOutput('qemu-img', args, outcome.stdout)).required;
}

/** How many bytes of data an image without a parent holds, without what is a hole or a zero cluster. */
export async function dataBytesOf(file: string, format: ImageFormat, signal: AbortSignal): Promise<number> {
  const args = ['map', '--output=json', imageReference([file], format)];
  const answer = await runForJSON('qemu-img', args, { signal, timeoutMs: mapTimeoutMs });
  const runs = z.array(z.object({ length: z.number(), data: z.boolean() })).parse(answer);
  return runs.reduce((total, { length, data }) => (data ? total + length : total), 0);
}
