import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runOrThrow } from '../../src/process/run.js';
import type { ProcessIdentity } from '../../src/process/identity.js';
import { isAlive } from '../../src/process/identity.js';
import { convertImage, dataBytesOf, measureImage } from '../../src/qemu/convert.js';
import { makeSmallFileSystem } from '../support/small-file-system.js';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;
let directory: string;
let source: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-convert-'));
  source = join(directory, 'source.qcow2');
  const qemu = (...args: string[]) => runOrThrow('qemu-img', args, { timeoutMs: 30_000 });
  await qemu('create', '-q', '-f', 'qcow2', source, '64M');
  await runOrThrow('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 7 0 24M', source], { timeoutMs: 30_000 });
});
afterAll(() => rm(directory, { recursive: true }));

const convert = (target: string, more: Partial<Parameters<typeof convertImage>[0]> = {}) =>
  convertImage({
    ...{ source: [source] as const, target, format: 'raw' as const, signal },
    ...{ onStart: async () => undefined, onProgress: () => undefined, ...more },
  });

test('it says who it is and how far it is, and writes data as data and holes as holes', async () => {
  const target = join(directory, 'target.raw');
  const progress: number[] = [];
  const who: ProcessIdentity[] = [];
  await convert(target, { onStart: async (one) => void who.push(one), onProgress: (done) => progress.push(done) });
  expect(who).toHaveLength(1);
  expect(progress.at(-1)).toBe(1);
  expect(progress).toEqual(progress.toSorted((a, b) => a - b));
  expect((await stat(target)).size).toBe(64 * MiB);
  expect(await dataBytesOf(target, 'raw', signal)).toBe(24 * MiB);
  expect(await measureImage([source], 'raw', signal)).toBeGreaterThanOrEqual(24 * MiB);
});

test('a file system that refuses O_DIRECT is written through the page cache', async () => {
  const memory = join(directory, 'memory');
  await mkdir(memory);
  await runOrThrow('mount', ['-t', 'ramfs', 'none', memory], { timeoutMs: 10_000 });
  const qemu = (...args: string[]) => runOrThrow('qemu-img', args, { timeoutMs: 30_000 });
  try {
    const target = join(memory, 'target.raw');
    await expect(qemu('convert', '-t', 'none', source, target)).rejects.toThrow('O_DIRECT');
    await convert(target);
    await qemu('compare', '-f', 'qcow2', '-F', 'raw', source, target);
  } finally {
    await runOrThrow('umount', [memory], { timeoutMs: 10_000 });
  }
});

test('a file system that is full is told apart, and so is a chain that cannot be read', async () => {
  const small = await makeSmallFileSystem(directory, 'small', 16 * MiB);
  try {
    await expect(convert(join(small.path, 'target.raw'))).rejects.toMatchObject({ code: 'TargetFull' });
  } finally {
    await small.remove();
  }
  const nobody = join(directory, 'nobody.qcow2');
  await expect(convert(join(directory, 'x'), { source: [nobody] })).rejects.toMatchObject({ code: 'ToolFailed' });
  await expect(measureImage([nobody], 'raw', signal)).rejects.toMatchObject({ code: 'ToolFailed' });
});

test('one whose identity nobody records is killed', async () => {
  let who: ProcessIdentity | undefined;
  const onStart = async (one: ProcessIdentity) => {
    who = one;
    throw new Error('no row');
  };
  await expect(convert(join(directory, 'killed.raw'), { onStart })).rejects.toThrow('no row');
  expect(who && (await isAlive(who))).toBe(false);
});
