import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runOrThrow } from '../../src/process/run.js';
import { convertImage } from '../../src/qemu/convert.js';
import type { ImageFiles } from '../../src/qemu/image-reference.js';
import { chainFiles, withPinnedChain } from '../../src/repository/pinned-chain.js';

const MiB = 1024 * 1024;
const signal = AbortSignal.timeout(120_000);
const chain = chainFiles([{ path: 'vm/incremental.qcow2' }, { path: 'vm/full.qcow2' }]);

let root: string;
let secret: string;
const qemu = (program: string, ...args: string[]) => runOrThrow(program as 'qemu-img', args, { timeoutMs: 30_000 });
const place = (name: string) => join(root, 'vm', name);

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'backupvm-pinned-'));
  secret = join(root, 'secret');
  await writeFile(secret, Buffer.alloc(MiB, 0x5e));
  await mkdir(join(root, 'vm'));
  await qemu('qemu-img', 'create', '-q', '-f', 'qcow2', place('full.qcow2'), '1M');
  await qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 0x11 0 512k', place('full.qcow2'));
  const backing = ['-u', '-b', 'full.qcow2', '-F', 'qcow2'];
  await qemu('qemu-img', 'create', '-q', '-f', 'qcow2', ...backing, place('incremental.qcow2'), '1M');
  await qemu(
    'qemu-io',
    '-f',
    'qcow2',
    '-c',
    'write -P 0x22 0 64k',
    '-c',
    'write -z 64k 64k',
    place('incremental.qcow2'),
  );
});
afterEach(() => rm(root, { recursive: true }));

const expected = Buffer.concat([
  Buffer.alloc(64 * 1024, 0x22),
  Buffer.alloc(64 * 1024),
  Buffer.alloc(384 * 1024, 0x11),
  Buffer.alloc(512 * 1024),
]);

/** What a restore reads. */
async function read(source: ImageFiles): Promise<Buffer> {
  const target = join(root, 'target');
  const quiet = { onStart: async () => undefined, onProgress: () => undefined };
  await convertImage({ source, target, format: 'raw', signal, ...quiet });
  return readFile(target);
}

/** Puts the image of somebody else in a file's place: all of its data are those of the secret. */
async function stealInto(file: string): Promise<void> {
  const options = `data_file=${join(root, 'other')},data_file_raw=on`;
  await qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, file, '1M');
  await qemu('qemu-img', 'amend', '-f', 'qcow2', '-o', `data_file=${secret}`, file);
}

test('a chain is read as it is recorded, zeros included', async () => {
  expect((await withPinnedChain(root, chain, read)).equals(expected)).toBe(true);
});

test('a folder that is exchanged while it is read, and put back, is not read', async () => {
  await mkdir(join(root, 'evil'));
  for (const name of await readdir(join(root, 'vm'))) await stealInto(join(root, 'evil', name));
  const bytes = await withPinnedChain(root, chain, async (files) => {
    await rename(join(root, 'vm'), join(root, 'aside'));
    await rename(join(root, 'evil'), join(root, 'vm'));
    try {
      return await read(files);
    } finally {
      await rename(join(root, 'vm'), join(root, 'evil'));
      await rename(join(root, 'aside'), join(root, 'vm'));
    }
  });
  expect(bytes.equals(expected)).toBe(true);
});

test('a file that is replaced while it is read is not read, and the replacement does not go unnoticed', async () => {
  let bytes: Buffer | undefined;
  const reading = withPinnedChain(root, chain, async (files) => {
    await rename(place('full.qcow2'), place('aside'));
    await symlink(secret, place('full.qcow2'));
    bytes = await read(files);
  });
  await expect(reading).rejects.toMatchObject({
    code: 'PointDamaged',
    message: expect.stringContaining('cannot read vm/full.qcow2 in the repository') as string,
  });
  expect(bytes?.equals(expected)).toBe(true);
});

test('a header that is changed in place for the time of the read, and put back, does not go unnoticed', async () => {
  const file = place('full.qcow2');
  const { atime, mtime } = await stat(file);
  const sealed = await readFile(file);
  await stealInto(join(root, 'evil.qcow2'));
  const evil = await readFile(join(root, 'evil.qcow2'));
  let bytes: Buffer | undefined;
  const reading = withPinnedChain(root, chain, async (files) => {
    await writeFile(file, evil, { flag: 'r+' });
    bytes = await read(files);
    await writeFile(file, sealed, { flag: 'r+' });
    await utimes(file, atime, mtime);
  });
  await expect(reading).rejects.toMatchObject({
    code: 'PointDamaged',
    message: expect.stringContaining('it was changed while it was read') as string,
  });
  expect(bytes?.at(-1)).toBe(0x5e); // it was read: what was made of it must not be used
});

test.each([
  ['missing', async () => rm(place('full.qcow2')), 'it is missing'],
  ['empty', async () => writeFile(place('full.qcow2'), ''), 'it has no QCOW2 header'],
  ['a FIFO', async () => replaceByFifo(), 'it is no plain file'],
  ['a folder', async () => rm(place('full.qcow2')).then(() => mkdir(place('full.qcow2'))), 'it is no plain file'],
])('a file that is %s is refused by name, before anything is read', async (_what, harm, words) => {
  await harm();
  const reading = withPinnedChain(root, chain, () => expect.fail('it was read'));
  await expect(reading).rejects.toMatchObject({
    code: 'PointDamaged',
    message: expect.stringContaining(`cannot read vm/full.qcow2 in the repository ${root}: ${words}`) as string,
  });
});

async function replaceByFifo(): Promise<void> {
  await rm(place('full.qcow2'));
  await promisify(execFile)('mkfifo', [place('full.qcow2')]);
}

test('what a tool says of a file names it as people know it, and no file stays open', async () => {
  const openFiles = async () => (await readdir(`/proc/${process.pid}/fd`)).length;
  await withPinnedChain(root, chain, read);
  const count = await openFiles();
  const bytes = await readFile(place('full.qcow2'));
  bytes.fill(0xff, 40, 48); // the L1 table's place
  await writeFile(place('full.qcow2'), bytes);
  const reading = withPinnedChain(root, chain, read);
  await expect(reading).rejects.toMatchObject({ code: 'ToolFailed' });
  await expect(reading).rejects.not.toMatchObject({ message: expect.stringContaining('/proc/') as string });
  expect(await openFiles()).toBe(count);
});
