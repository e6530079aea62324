import { randomUUID } from 'node:crypto';
import { copyFile, open, readFile, rm, stat, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { runOrThrow } from '../../src/process/run.js';

/** Harms a file, keeps its times, calls `use`, and puts it back as it was. */
export async function whileHarmed(
  file: string,
  harm: (file: string) => Promise<void>,
  use: () => Promise<void>,
): Promise<void> {
  const kept = join(tmpdir(), `backupvm-kept-${randomUUID()}`);
  const { atime, mtime } = await stat(file);
  await copyFile(file, kept);
  try {
    await harm(file);
    await utimes(file, atime, mtime).catch(() => undefined); // where it is still there
    await use();
  } finally {
    await copyFile(kept, file);
    await utimes(file, atime, mtime);
    await rm(kept);
  }
}

/** Changes a file, and gives it back the times that it had, to the nanosecond: `utimes` may miss by a millisecond. */
export async function keepTimes(file: string, change: (file: string) => Promise<void>): Promise<void> {
  const reference = join(tmpdir(), `backupvm-times-${randomUUID()}`);
  const touch = (...args: string[]) => execa('touch', args);
  await touch('--reference', file, reference);
  try {
    await change(file);
    await touch('--reference', reference, file);
  } finally {
    await rm(reference);
  }
}

/** Turns one bit of a file round. */
export async function flip(file: string, offset: number): Promise<void> {
  const handle = await open(file, 'r+');
  const byte = Buffer.alloc(1);
  await handle.read(byte, 0, 1, offset);
  byte[0] = (byte[0] ?? 0) ^ 0x01;
  await handle.write(byte, 0, 1, offset);
  await handle.close();
}

/** Says where in a file something stands. */
export type Place = (file: string) => Promise<number>;

export const at =
  (offset: number): Place =>
  async () =>
    offset;

/** What a field of a QCOW2 header points to, big-endian, and `more` bytes on. */
export const pointedAtBy =
  (field: number, more: number): Place =>
  async (file) =>
    Number((await readFile(file)).readBigUInt64BE(field)) + more;

/** Where the data of a byte of the virtual disk stand in this very file. */
export const dataOf =
  (virtualOffset: number): Place =>
  async (file) => {
    const { stdout } = await runOrThrow('qemu-img', ['map', '--output=json', '-f', 'qcow2', file], {
      timeoutMs: 30_000,
    });
    const runs = JSON.parse(stdout) as { start: number; length: number; depth: number; offset?: number }[];
    const run = runs.find(({ start, length }) => start <= virtualOffset && virtualOffset < start + length);
    if (run?.depth !== 0 || run.offset === undefined) throw new Error(`Expected data of ${file} at ${virtualOffset}`);
    return run.offset + (virtualOffset - run.start);
  };
