import { constants } from 'node:fs';
import fs from 'node:fs/promises';
import { BackupError } from '../domain/errors.js';
import { run } from '../process/run.js';

// Node's own calls with a limit, under Node's names. A file system that hangs (a dead NFS server) keeps a call and its thread for
// as long as it hangs; whoever waits for it must not.

/** Longer than a disk that wakes up, a server that reboots, or the removal of a very large file takes. */
export const callTimeoutMs = 2 * 60_000;
/** What qemu-nbd wrote went past the page cache: this is the disk's own cache, and what openssl has left dirty is nothing. */
const syncTimeoutMs = 10 * 60_000;
/** For the first look of a step, before any thread of ours is risked. */
const answerTimeoutMs = 10_000;

type Call = (path: string, ...rest: never[]) => Promise<unknown>;

function limited<F extends Call>(call: F): F {
  return ((path: string, ...rest: never[]) => within(callTimeoutMs, path, call(path, ...rest))) as F;
}

export const link = limited(fs.link as Call as (existing: string, path: string) => Promise<void>);
export const lstat = limited(fs.lstat as Call as typeof fs.lstat & Call);
export const mkdir = limited(fs.mkdir as Call as typeof fs.mkdir & Call);
export const readdir = limited(fs.readdir as Call as typeof fs.readdir & Call);
export const readFile = limited(fs.readFile as Call as typeof fs.readFile & Call);
export const realpath = limited(fs.realpath as Call as typeof fs.realpath & Call);
export const rename = limited(fs.rename as Call as (from: string, to: string) => Promise<void>);
export const rm = limited(fs.rm as Call as typeof fs.rm & Call);
export const rmdir = limited(fs.rmdir as Call as typeof fs.rmdir & Call);
export const stat = limited(fs.stat as Call as typeof fs.stat & Call);
export const statfs = limited(fs.statfs as Call as typeof fs.statfs & Call);

/** What we do with an open file. */
export interface OpenFile {
  writeFile: (content: string) => Promise<void>;
  sync: () => Promise<void>;
  close: () => Promise<void>;
}

export async function open(path: string, flags: string, mode?: number): Promise<OpenFile> {
  const file = await within(callTimeoutMs, path, fs.open(path, flags, mode));
  return {
    writeFile: (content) => within(callTimeoutMs, path, file.writeFile(content)),
    sync: () => within(syncTimeoutMs, path, file.sync()),
    close: () => within(callTimeoutMs, path, file.close()),
  };
}

/**
 * Gives a file its owner and mode, and makes its content durable. Fails on a link: whoever may write to the folder could have put
 * one there, and the file that it leads to would change hands.
 */
export async function settleFile(
  path: string,
  { uid, gid, mode }: { uid?: number; gid?: number; mode: number },
): Promise<void> {
  const file = await within(callTimeoutMs, path, fs.open(path, constants.O_RDWR | constants.O_NOFOLLOW));
  try {
    if (uid !== undefined && gid !== undefined) await within(callTimeoutMs, path, file.chown(uid, gid));
    await within(callTimeoutMs, path, file.chmod(mode));
    await within(syncTimeoutMs, path, file.sync());
  } finally {
    await within(callTimeoutMs, path, file.close());
  }
}

/** @throws BackupError RepositoryUnusable when the call has not ended within the time; it may still end, later */
export async function within<T>(timeoutMs: number, path: string, call: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(noAnswer(path, timeoutMs)), timeoutMs);
  });
  try {
    return await Promise.race([call, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Waits for a file system to answer at all, by a program of its own: one that hangs holds that program, and no thread of ours.
 * What the answer is does not matter here: `cat` reads the file, `mkdir` writes to its folder.
 * @throws BackupError RepositoryUnusable
 */
export async function requireAnswer(program: 'cat' | 'mkdir', path: string): Promise<void> {
  try {
    await run(program, ['--', path], { timeoutMs: answerTimeoutMs });
  } catch (error) {
    if (error instanceof BackupError && error.code === 'ToolFailed') throw noAnswer(path, answerTimeoutMs);
    throw error;
  }
}

function noAnswer(path: string, timeoutMs: number): BackupError {
  return new BackupError(
    'RepositoryUnusable',
    `Expected the file system of ${path} to answer within ${timeoutMs / 1000} s, found that it hangs; see whether its server or disk is there`,
  );
}
