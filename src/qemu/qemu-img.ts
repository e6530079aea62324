import { open, rm } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { z } from 'zod';
import { BackupError } from '../domain/errors.js';
import { parseOutput, run, runOrThrow, type Outcome } from '../process/run.js';
import { imageReference, type ImageFiles } from './image-reference.js';

/** These calls read or write only metadata; more than this means that the storage hangs. */
const metadataTimeoutMs = 60_000;
/** Reads all reference counts: minutes for a file of many TiB. */
const checkTimeoutMs = 3_600_000;

const checkAnswer = z.object({ leaks: z.number().default(0) });

export interface CreateImageRequest {
  file: string;
  sizeBytes: number;
  parent?: ImageParent;
  signal: AbortSignal;
}

export interface ImageParent {
  /** As the header is to have it: a name in the same directory, so that a chain copied elsewhere stays whole. */
  name: string;
  /** Where its file, and all that it needs, are opened. */
  files: ImageFiles;
}

/**
 * Makes an empty QCOW2 file, or none when it throws. Not to be repeated on the same name: it never overwrites.
 * @throws BackupError AlreadyExists; ParentUnusable; ExportFailed when something still writes to the parent; ToolFailed
 */
export async function createImage({ file, sizeBytes, parent, signal }: CreateImageRequest): Promise<void> {
  const path = resolve(file);
  const cwd = dirname(path);
  if (parent) await checkParent(parent, signal);
  await reserve(path);
  // -u: only the name is written down, and nothing of that name is opened.
  const backing = parent ? ['-u', '-b', parent.name, '-F', 'qcow2'] : [];
  try {
    await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, path, String(sizeBytes)], {
      signal,
      timeoutMs: metadataTimeoutMs,
      cwd,
    });
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}

/** `qemu-img create` overwrites whatever is there; this decides between two that come at once, too. */
async function reserve(path: string): Promise<void> {
  try {
    await (await open(path, 'wx', 0o600)).close(); // qemu-img keeps the mode of a file that is there
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    throw new BackupError('AlreadyExists', `Expected no file ${path} yet, found one; it was left as it is`, {
      details: { file: path },
    });
  }
}

/** `qemu-img create -u` accepts a parent that cannot be read, or that a stale process writes to; everything after it fails. */
async function checkParent({ name, files }: ImageParent, signal: AbortSignal): Promise<void> {
  if (basename(name) !== name || name.includes(':')) {
    throw new TypeError(`Expected the plain name of a file as parent, got '${name}'`); // `a:b` is a protocol to QEMU
  }
  // Without -U, so that it asks for the lock of every file in the chain. A map of one byte reads next to nothing.
  const args = ['map', '--output=json', '--start-offset=0', '--max-length=1', imageReference(files)];
  const outcome = await run('qemu-img', args, { signal, timeoutMs: metadataTimeoutMs });
  if (outcome.exitCode === 0) return;
  const [file] = files;
  throwIfLocked(file, outcome);
  throw new BackupError('ParentUnusable', `Parent ${file} cannot be used: ${outcome.stderr.trim()}`, {
    details: { file },
  });
}

/**
 * Proves that the structure of a QCOW2 file can be read; says nothing about completeness, and opens no other file.
 * Leaked clusters waste space only, so they are counted and are no error.
 * @throws BackupError ImageDamaged (corrupt, or it cannot be opened); ExportFailed when it is being written to
 */
export async function checkImage(file: string, signal: AbortSignal): Promise<{ leakedClusters: number }> {
  const args = ['check', '--output=json', imageReference([file])];
  const outcome = await run('qemu-img', args, { signal, timeoutMs: checkTimeoutMs });
  const isSound = outcome.exitCode === 0 || outcome.exitCode === 3; // 3: leaks only
  if (isSound) return { leakedClusters: checkAnswer.parse(parseOutput('qemu-img', args, outcome.stdout)).leaks };
  throwIfLocked(file, outcome);
  const found = outcome.exitCode === 2 ? 'it is corrupt' : 'it cannot be checked';
  const said = (outcome.stderr || outcome.stdout).trim().slice(0, 2000);
  throw new BackupError('ImageDamaged', `Expected ${file} to be a sound QCOW2 file, found that ${found}: ${said}`, {
    details: { file, exitCode: outcome.exitCode },
  });
}

/**
 * Looks whether QEMU has a file open for writing, of whatever format. Reads nothing of it: a guest decides what stands there.
 * @throws BackupError VMRunning; ToolFailed when it cannot be told
 */
export async function requireUnlocked(file: string, signal: AbortSignal): Promise<void> {
  // Two processes may write to one raw image as far as QEMU is concerned, unless one of them asks to be alone.
  const alone = {
    driver: 'blkdebug',
    'unshare-child-perms': ['write'],
    image: { driver: 'file', filename: resolve(file) },
  };
  const args = ['info', `json:${JSON.stringify({ driver: 'raw', file: alone })}`];
  const { exitCode, stderr } = await run('qemu-img', args, { signal, timeoutMs: metadataTimeoutMs });
  if (exitCode === 0) return;
  if (/Failed to get (shared )?"\w+" lock/.test(stderr)) {
    throw new BackupError(
      'VMRunning',
      `cannot replace or remove ${file}: a process writes to it; shut its VM down first`,
    );
  }
  throw new BackupError(
    'ToolFailed',
    `qemu-img cannot tell whether ${file} is in use: ${stderr.trim().slice(0, 2000)}`,
  );
}

/** @throws BackupError ExportFailed when QEMU's tools said that another process holds the file `[NAME]` */
export function throwIfLocked(file: string, { stderr }: Outcome): void {
  if (!/Failed to get (shared )?"\w+" lock/.test(stderr)) return;
  const held = /another process using the image \[(.*)\]/.exec(stderr)?.[1] ?? file;
  throw new BackupError(
    'ExportFailed',
    `Expected nobody to write to ${held}, found another process that holds its lock; stop that first`,
    {
      details: { file: held },
    },
  );
}

/** How far `qemu-img -p` says in a line that it is, from 0 to 1; undefined where the line says something else. */
export function progressOf(line: string): number | undefined {
  const percent = [...line.matchAll(/\(([\d.]+)\/100%\)/g)].at(-1)?.[1];
  return percent === undefined ? undefined : Number(percent) / 100;
}
