import { createHash } from 'node:crypto';
import { copyFile, mkdtemp, open, readdir, readFile, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createRandom } from '../../chaos/random.js';
import { compareBlockHashes, writeBlockHashes } from '../../src/hashes/hash-disk.js';
import { run, runOrThrow } from '../../src/process/run.js';
import { fileChecksum } from '../../src/repository/files.js';
import { restore } from '../support/content.js';
import { imageFiles } from '../support/image-files.js';
import { until } from '../support/until.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const block = 256 * KiB;
const cluster = 64 * KiB;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-hashes-'));
});
afterAll(() => rm(directory, { recursive: true }));

const signal = AbortSignal.timeout(120_000);
const place = (name: string) => join(directory, name);

/** Makes an image, or an overlay of `parent`, and does to it what `commands` say. */
async function makeImage(name: string, sizeBytes: number, commands: string[], parent?: string): Promise<string> {
  const backing = parent === undefined ? [] : ['-b', `${parent}.qcow2`, '-F', 'qcow2'];
  const file = place(`${name}.qcow2`);
  const options = { timeoutMs: 30_000, cwd: directory };
  await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, file, String(sizeBytes)], options);
  if (commands.length > 0) {
    const args = commands.flatMap((command) => ['-c', command]);
    await runOrThrow('qemu-io', ['-f', 'qcow2', ...args, file], options);
  }
  return file;
}

/** Writes the table of an image; that of its parent has the checksum that it was `sealed` with. @returns how many blocks were read */
async function hash(name: string, parent?: string, sealed?: string): Promise<number> {
  const path = place(`${parent ?? 'none'}.hashes`);
  const checksum = sealed ?? (await fileChecksum(path, signal).catch(() => ''));
  const parentHashes = parent === undefined ? undefined : { path, checksum };
  const files = await imageFiles(place(`${name}.qcow2`));
  const request = { files, format: 'qcow2', hashesFile: place(`${name}.hashes`) } as const;
  return (await writeBlockHashes({ ...request, parentHashes, signal })).hashedBlocks;
}

async function compare(file: string, hashesFile: string, format: 'qcow2' | 'raw' = 'qcow2') {
  return compareBlockHashes({ files: await imageFiles(place(file)), format, hashesFile: place(hashesFile), signal });
}

/** The table as anybody would make it: from the raw disk, read whole. */
async function independentTable(name: string): Promise<string> {
  await restore(place(`${name}.qcow2`), place('raw'));
  const raw = await readFile(place('raw'));
  const lines: string[] = [];
  for (let offset = 0; offset < raw.length; offset += block) {
    const bytes = raw.subarray(offset, offset + block);
    const isZero = bytes.every((byte) => byte === 0);
    lines.push(isZero ? '00'.repeat(32) : createHash('sha256').update(bytes).digest('hex'));
  }
  return lines.join('\n');
}

async function tableOf(name: string): Promise<string> {
  const hashes = (await readFile(place(`${name}.hashes`))).subarray(32).toString('hex');
  return (hashes.match(/.{64}/g) ?? []).join('\n');
}

describe('writeBlockHashes', () => {
  test.each([1, 2])('of random chains gives what hashing the raw disks gives, seed %i', async (seed) => {
    const { between, pick } = createRandom(seed);
    let sizeBytes = 3 * MiB + 512 * between(0, 600);
    let parent: string | undefined;
    for (let index = 0; index < 4; index += 1) {
      if (between(1, 3) === 1) sizeBytes += 512 * between(1, 2_000); // then all is hashed anew
      const name = `random-${seed}-${index}`;
      const commands = Array.from({ length: between(1, 8) }, () => {
        const offset = 512 * between(0, sizeBytes / 512 - 1);
        const length = Math.min(512 * between(1, 1_200), sizeBytes - offset);
        const data = `write -P ${between(1, 255)}`;
        return `${pick([data, data, data, 'write -z', 'write -z -u', 'write -P 0'])} ${offset} ${length}`;
      });
      await makeImage(name, sizeBytes, commands, parent);
      await hash(name, parent);
      expect(await tableOf(name), `${name}: ${commands.join('; ')}`).toBe(await independentTable(name));
      expect(await compare(`${name}.qcow2`, `${name}.hashes`)).toMatchObject({ differentBlocks: 0 });
      expect(await compare('raw', `${name}.hashes`, 'raw')).toMatchObject({ differentBlocks: 0 });
      parent = name;
    }
  });

  test('reads of an incremental the blocks that it touches, and carries the rest over', async () => {
    await makeImage('base', 64 * MiB, ['write -P 1 0 32M']);
    expect(await hash('base')).toBe(128);
    await makeImage('over', 64 * MiB, [`write -P 2 ${5 * block - 512} 1k`, `write -z ${9 * block} ${cluster}`], 'base');
    expect(await hash('over', 'base')).toBe(3);
    expect(await tableOf('over')).toBe(await independentTable('over'));
    await makeImage('nothing', 64 * MiB, [], 'over');
    expect(await hash('nothing', 'over')).toBe(0);
    expect(await tableOf('nothing')).toBe(await tableOf('over'));
  });

  test('reads all when the table of the parent is missing, cut off, or of another size', async () => {
    await makeImage('p', 4 * MiB, ['write -P 1 0 2M']);
    await makeImage('c', 4 * MiB, ['write -P 2 0 64k'], 'p');
    expect(await hash('c', 'p')).toBe(8);
    await hash('p');
    await truncate(place('p.hashes'), 100);
    expect(await hash('c', 'p')).toBe(8);
    await makeImage('q', 5 * MiB, []);
    await hash('q');
    expect(await hash('c', 'q')).toBe(8);
    expect(await tableOf('c')).toBe(await independentTable('c'));
  });

  test('reads all when the table of the parent is not as it was sealed, and keeps nothing of it', async () => {
    await makeImage('sealed', 4 * MiB, ['write -P 1 0 2M']);
    await hash('sealed');
    const checksum = await fileChecksum(place('sealed.hashes'), signal);
    const table = await open(place('sealed.hashes'), 'r+');
    await table.write(Buffer.alloc(32, 0xee), 0, 32, 32 + 32 * 15); // of a block that the child does not touch
    await table.close();
    await makeImage('on-sealed', 4 * MiB, ['write -P 2 0 64k'], 'sealed');
    expect(await hash('on-sealed', 'sealed', checksum)).toBe(8);
    expect(await tableOf('on-sealed')).toBe(await independentTable('on-sealed'));
  });

  test('costs nothing for holes: a table of a TiB takes as much room as its data', async () => {
    await makeImage('sparse', 1024 * 1024 * MiB, ['write -P 1 512G 64k']);
    expect(await hash('sparse')).toBe(1);
    const { size, blocks } = await stat(place('sparse.hashes'));
    expect(size).toBe(32 + 32 * 4 * MiB);
    expect(blocks * 512).toBeLessThan(64 * KiB);
    const found = await compare('sparse.qcow2', 'sparse.hashes');
    expect(found).toMatchObject({
      comparedBlocks: 4 * MiB,
      dataBytes: block,
      differentBlocks: 0,
      firstDifferences: [],
    });
  });

  test('when stopped leaves no process, and no table under its name', async () => {
    await makeImage('large', 512 * MiB, ['write -P 1 0 512M']);
    const stop = new AbortController();
    const request = { files: [place('large.qcow2')], format: 'qcow2', hashesFile: place('large.hashes') } as const;
    const written = writeBlockHashes({
      ...request,
      parentHashes: undefined,
      signal: stop.signal,
      onProgress: () => stop.abort(new Error('enough')),
    });
    await expect(written).rejects.toThrow('enough');
    await until('the process to be gone', async () => !(await isHashed('large.qcow2')));
    expect((await readdir(directory)).filter((name) => name.endsWith('.hashes') && name.includes('large'))).toEqual([]);
    expect(await hash('large')).toBe(2048);
    await rm(place('large.qcow2'));
  });

  test('of an image whose parent is missing says so', async () => {
    await makeImage('orphan-base', MiB, []);
    await makeImage('orphan', MiB, [], 'orphan-base');
    await rm(place('orphan-base.qcow2'));
    await expect(hash('orphan')).rejects.toMatchObject({
      code: 'ToolFailed',
      message: expect.stringContaining('orphan-base.qcow2') as string,
    });
  });
});

async function isHashed(file: string): Promise<boolean> {
  for (const entry of await readdir('/proc')) {
    const commandLine = /^\d+$/.test(entry) ? await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '') : '';
    if (commandLine.includes('hasher') && commandLine.includes(file)) return true;
  }
  return false;
}

describe('compareBlockHashes', () => {
  const sizeBytes = 8 * MiB + 512;
  beforeAll(async () => {
    await makeImage('full', sizeBytes, ['write -P 1 0 4M', 'write -P 2 8M 512']);
    await hash('full');
    await makeImage('incremental', sizeBytes, ['write -P 3 1M 64k', 'write -z 2M 256k'], 'full');
    await hash('incremental', 'full');
  });

  /** A copy of the chain of two, with `change` done to it. */
  async function changed(command: string): Promise<void> {
    await copyFile(place('full.qcow2'), place('changed.qcow2'));
    await runOrThrow('qemu-io', ['-f', 'qcow2', '-c', command, place('changed.qcow2')], { timeoutMs: 30_000 });
  }

  test('counts all blocks, and the bytes of those that hold data', async () => {
    expect(await compare('incremental.qcow2', 'incremental.hashes')).toEqual({
      comparedBlocks: 33,
      dataBytes: 4 * MiB - block + 512,
      differentBlocks: 0,
      firstDifferences: [],
      hashesChecksum: await fileChecksum(place('incremental.hashes'), signal),
    });
  });

  test.each([
    ['a byte of a block', 'write -P 9 1048577 1', [MiB]],
    ['the last byte of a short block', `write -P 9 ${sizeBytes - 1} 1`, [8 * MiB]],
    ['data where there were zeros', 'write -P 9 6M 1', [6 * MiB]],
    ['zeros where there was data', 'write -z 512k 256k', [512 * KiB]],
    ['data that is gone altogether', 'discard 0 4M', [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((index) => index * block)],
  ])('finds %s', async (_what, command, firstDifferences) => {
    await changed(command);
    const found = await compare('changed.qcow2', 'full.hashes');
    expect(found.firstDifferences).toEqual(firstDifferences);
    expect(found.differentBlocks).toBe(command.startsWith('discard') ? 16 : 1);
  });

  test('finds a flipped bit in the table, be it in the hash of a block of zeros', async () => {
    for (const blockNumber of [0, 20, 32]) {
      await copyFile(place('full.hashes'), place('flipped.hashes'));
      const table = await open(place('flipped.hashes'), 'r+');
      await table.write(Buffer.of(0x80), 0, 1, 32 + 32 * blockNumber + 31);
      await table.close();
      const found = await compare('full.qcow2', 'flipped.hashes');
      expect(found).toMatchObject({ differentBlocks: 1, firstDifferences: [blockNumber * block] });
    }
  });

  test.each([
    ['missing', async () => rm(place('t.hashes'))],
    ['cut off', async () => truncate(place('t.hashes'), 64)],
    ['empty', async () => truncate(place('t.hashes'), 0)],
    ['of a disk of another size', async () => copyFile(place('base.hashes'), place('t.hashes'))],
  ])('refuses a table that is %s', async (_what, harm) => {
    await copyFile(place('full.hashes'), place('t.hashes'));
    await harm();
    await expect(compare('full.qcow2', 't.hashes')).rejects.toMatchObject({ code: 'PointDamaged' });
  });

  test('refuses a compressed image: its data do not stand there as they read', async () => {
    await run('qemu-img', ['convert', '-c', '-O', 'qcow2', place('full.qcow2'), place('compressed.qcow2')], {
      timeoutMs: 30_000,
    });
    await expect(compare('compressed.qcow2', 'full.hashes')).rejects.toMatchObject({ code: 'ImageDamaged' });
  });
});
