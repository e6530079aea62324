import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runOrThrow } from '../../src/process/run.js';
import { compareWithSource } from '../../src/qemu/compare-images.js';

const MiB = 1024 * 1024;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-compare-'));
  await writeFile(join(directory, 'source'), Buffer.alloc(2 * MiB, 0x5a));
  await truncate(join(directory, 'source'), 4 * MiB);
});
afterAll(() => rm(directory, { recursive: true }));

const timeoutMs = 30_000;

/** A copy of the source to which `change` was done. */
async function compareChanged(change: string): Promise<number> {
  const [source, copy] = [join(directory, 'source'), join(directory, 'copy.qcow2')];
  await runOrThrow('qemu-img', ['convert', '-O', 'qcow2', source, copy], { timeoutMs });
  await runOrThrow('qemu-io', ['-f', 'qcow2', '-c', change, copy], { timeoutMs });
  let done = 0;
  const signal = AbortSignal.timeout(timeoutMs);
  const onProgress = (fraction: number) => (done = fraction);
  await compareWithSource({ sourceUri: source, files: [copy], signal, onStart: async () => undefined, onProgress });
  return done;
}

test.each([
  ['nothing', 'read 0 512'],
  ['zeros written over zeros', 'write -P 0 3M 64k'],
])('a copy with %s done to it is the same, all of it', async (_what, change) => {
  expect(await compareChanged(change)).toBe(1);
});

test.each([
  ['a byte changed', 'write -P 1 1048577 1', '1048'],
  ['data where there were zeros', 'write -P 1 3M 512', '3145728'],
  ['zeros where there was data', 'write -z 0 64k', '0'],
])('a copy with %s differs, and where', async (_what, change, offset) => {
  await expect(compareChanged(change)).rejects.toMatchObject({
    code: 'ContentDiffers',
    message: expect.stringContaining(`Content mismatch at offset ${offset}`) as string,
  });
});
