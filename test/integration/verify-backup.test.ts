import { readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { VerifyBackupRequest } from '../../src/domain/verify-input.js';
import type { VerifyBackupResult } from '../../src/domain/verify-result.js';
import { hashesFilePath } from '../../src/domain/names.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { findLeftovers } from '../support/end-state.js';
import { at, dataOf, flip, pointedAtBy, whileHarmed } from '../support/harm.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';

const KiB = 1024;
const MiB = 1024 * KiB;

let world: World;
let vm: StorageDaemon;
/** A full and two incrementals of one disk. */
let points: BackupVMResult[];
beforeAll(async () => {
  world = await createWorld('verify');
  vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 4 * MiB + 512 }]);
  points = [];
  await vm.write('root', 0, 2 * MiB, 0x11);
  points.push(await world.backUp({ vm: 'web01' }));
  await vm.write('root', 256 * KiB, 128 * KiB, 0x22);
  await vm.zero('root', MiB, 512 * KiB);
  points.push(await world.backUp({ vm: 'web01' }));
  await vm.write('root', 4 * MiB, 512, 0x33);
  points.push(await world.backUp({ vm: 'web01' }));
});
afterAll(() => world.close());

let runs = 0;
async function verify(input: VerifyBackupRequest): Promise<VerifyBackupResult> {
  runs += 1;
  return world.client.workflow.execute<(input: VerifyBackupRequest) => Promise<VerifyBackupResult>>('VerifyBackup', {
    taskQueue: mainQueue,
    workflowId: `verify-backup/${runs}`,
    args: [input],
  });
}

/** Relative to the repository. */
const pathOf = (index: number) => points[index]?.disks[0]?.path ?? '';
const manifestOf = (index: number) =>
  pathOf(index).replace('/root/', '/').replace('-root-', '-').replace('.qcow2', '.json');
const inRepository = (path: string) => join(world.repository.path, path);
const fileOf = (index: number) => inRepository(pathOf(index));

async function forgetMarks(): Promise<void> {
  await world.database.pool.query('update backup_disks set damage = null');
}

/** The damage of each point's disk, as it is recorded. */
async function marks(): Promise<(string | null)[]> {
  const { rows } = await world.database.pool.query<{ jobId: string; damage: string | null }>(
    `select job_id as "jobId", damage from backup_disks`,
  );
  return points.map(({ jobId }) => rows.find((row) => row.jobId === jobId)?.damage ?? null);
}

test('what is good is found good, by every level, while the VM does not even answer', async () => {
  vm.pause();
  try {
    for (const level of ['structure', 'checksum', 'content'] as const) {
      const { files, ...result } = await verify({ vm: 'web01', level });
      expect(result).toMatchObject({ vm: 'web01', repository: 'store', level, damaged: false, fileCount: 3 });
      expect(result.points).toEqual([
        { pointId: points[2]?.jobId, pointTime: expect.any(String) as string, damaged: false },
      ]);
      expect(files.map(({ path, damage }) => ({ path, damage }))).toEqual(
        [0, 1, 2].map((index) => ({ path: pathOf(index), damage: null })),
      );
      // The content is that of the point; of what it needs, the files are looked at.
      expect(files.map(({ comparedBlocks }) => comparedBlocks)).toEqual([null, null, level === 'content' ? 17 : null]);
    }
    const all = await verify({ vm: 'web01', level: 'content', all: true });
    expect(all.files.map(({ comparedBlocks }) => comparedBlocks)).toEqual([17, 17, 17]);
    expect(all.points.map(({ damaged }) => damaged)).toEqual([false, false, false]);
    const oldest = await verify({ point: points[0]?.jobId.slice(0, 13) ?? '' });
    expect(oldest.files.map(({ path }) => path)).toEqual([pathOf(0)]);
  } finally {
    vm.resume();
  }
  expect((await findLeftovers(world)).processes).toEqual([]);
});

describe('one flipped byte', () => {
  afterEach(forgetMarks);

  test.each([
    ['the data of a full', 0, dataOf(0)],
    ['the data of a full that no later point reads', 0, dataOf(256 * KiB + 77)],
    ['the data of an incremental', 1, dataOf(256 * KiB + 128 * KiB - 1)],
    ['the data of the newest', 2, dataOf(4 * MiB)],
    ['the header of a full', 0, at(0)],
    ['the L1 table of a full', 0, pointedAtBy(40, 6)],
    ['the L1 table of an incremental', 1, pointedAtBy(40, 0)],
    ['the reference counts of a full', 0, pointedAtBy(48, 5)],
    ['the backing name of an incremental', 1, pointedAtBy(8, 3)],
  ])('in %s is found, by checksum and by content, and marks what needs the file', async (_what, index, place) => {
    const needs = `needs the damaged ${pathOf(index)}`;
    await whileHarmed(
      fileOf(index),
      async (file) => flip(file, await place(file)),
      async () => {
        for (const level of ['checksum', 'content'] as const) {
          await forgetMarks();
          const { damaged, files } = await verify({ vm: 'web01', level });
          expect(damaged).toBe(true);
          expect(files[index]?.damage).toContain(`${pathOf(index)} is not as it was sealed`);
          const found = (await marks()).map((mark) => mark?.slice(0, needs.length) ?? null);
          expect(found.slice(0, index)).toEqual(Array(index).fill(null));
          expect(found.slice(index + 1)).toEqual(Array(2 - index).fill(needs));
        }
      },
    );
  });

  test.each([
    ['the block hashes of a full', hashesFilePath, 0, 40],
    ['the block hashes of a block of zeros', hashesFilePath, 1, 32 + 9 * 32],
    ['the header of block hashes', hashesFilePath, 2, 15],
    ['a manifest', undefined, 1, 30],
  ])('in %s is found, and marks its restore point alone', async (_what, besideOf, index, offset) => {
    const path = besideOf?.(pathOf(index)) ?? manifestOf(index);
    await whileHarmed(
      inRepository(path),
      (file) => flip(file, offset),
      async () => {
        for (const level of ['checksum', 'content'] as const) {
          await forgetMarks();
          expect((await verify({ vm: 'web01', level })).files[index]?.damage).toContain(path);
          expect((await marks()).map((mark) => mark !== null)).toEqual([0, 1, 2].map((other) => other === index));
        }
      },
    );
  });
});

test('marks stay until the content is verified again, and every file that the point needs is good', async () => {
  await whileHarmed(
    fileOf(1),
    async (file) => flip(file, await dataOf(256 * KiB)(file)),
    async () => {
      await verify({ vm: 'web01' });
      await verify({ point: points[0]?.jobId ?? '', level: 'content' });
      expect((await marks()).map((mark) => mark !== null)).toEqual([false, true, true]);
    },
  );
  await verify({ vm: 'web01', level: 'checksum' });
  expect((await marks()).map((mark) => mark !== null)).toEqual([false, true, true]);
  expect((await verify({ vm: 'web01', level: 'content' })).damaged).toBe(false);
  expect(await marks()).toEqual([null, null, null]);
});

describe('also found is', () => {
  const expectDamage = async (level: 'structure' | 'checksum', index: number, words: string) => {
    const { files } = await verify({ vm: 'web01', level });
    expect(files[index]?.damage).toContain(words);
  };
  afterEach(forgetMarks);

  test('a file that is missing, by structure, and by what needs it', async () => {
    await whileHarmed(fileOf(0), rm, async () => {
      await expectDamage('structure', 0, `${pathOf(0)} is missing`);
      const { files } = await verify({ point: points[2]?.jobId ?? '', level: 'content' });
      expect(files[2]?.damage).toBe(`needs the damaged ${pathOf(0)}`);
    });
  });

  test('a file that is cut off, by structure', async () => {
    const { size } = await stat(inRepository(pathOf(1)));
    await whileHarmed(
      fileOf(1),
      (file) => truncate(file, size - 1),
      () => expectDamage('structure', 1, `${pathOf(1)} has ${size - 1} bytes, and had ${size}`),
    );
  });

  test('two files that were swapped', async () => {
    const swap = async (file: string) => {
      await rename(file, inRepository('swapped'));
      await rename(inRepository(pathOf(2)), file);
      await rename(inRepository('swapped'), inRepository(pathOf(2)));
    };
    await whileHarmed(
      fileOf(2),
      () => Promise.resolve(),
      () => whileHarmed(fileOf(1), swap, () => expectDamage('checksum', 1, pathOf(1))),
    );
  });

  test.each([
    [
      'names another parent',
      (text: string) => text.replace(/"path": "(.*)qcow2"\n {6}\}/, '"path": "$1qcow3"\n      }'),
    ],
    ['says another checksum', (text: string) => text.replace(/sha256:[0-9a-f]{8}/, 'sha256:00000000')],
    ['has lost its disks', (text: string) => text.replace(/"disks": \[[\s\S]*\]/, '"disks": []')],
    ['is of another VM', (text: string) => text.replace('qmp:web01', 'qmp:web02')],
    ['is no JSON', () => 'x'],
  ])('a manifest that %s, by structure', async (_what, tamper) => {
    const harm = async (file: string) => {
      const before = await readFile(file, 'utf8');
      expect(tamper(before)).not.toBe(before);
      await writeFile(file, tamper(before));
    };
    await whileHarmed(inRepository(manifestOf(1)), harm, () => expectDamage('structure', 1, manifestOf(1)));
  });

  test('a manifest that is missing, and block hashes that are', async () => {
    await whileHarmed(inRepository(manifestOf(2)), rm, () =>
      expectDamage('structure', 2, `${manifestOf(2)} is missing`),
    );
    const hashes = hashesFilePath(pathOf(2));
    await whileHarmed(inRepository(hashes), rm, () => expectDamage('structure', 2, `${hashes} is missing`));
  });
});

test('a repository that is not there is no damage', async () => {
  await rename(world.repository.path, `${world.repository.path}.away`);
  try {
    await expect(verify({ vm: 'web01' })).rejects.toMatchObject({ cause: { type: 'RepositoryUnusable' } });
  } finally {
    await rename(`${world.repository.path}.away`, world.repository.path);
  }
  expect(await marks()).toEqual([null, null, null]);
});

test.each([
  [{}, `expected either 'point' or 'vm'`],
  [
    { point: 'a', vm: 'b', level: 'deep' },
    `level: expected one of 'structure', 'checksum', 'content', found "deep"; point: `,
  ],
  [{ point: 'a', all: true }, `expected 'vm' beside 'all'`],
  [{ vm: 'a', deep: true }, `unknown field 'deep'`],
])('refuses the input %j', async (input, words) => {
  await expect(verify(input as VerifyBackupRequest)).rejects.toMatchObject({
    cause: { type: 'InvalidInput', message: expect.stringContaining(words) as string },
  });
});

test('is started by the plain Temporal CLI, and says where damage is, to the block', async () => {
  const env = { TEMPORAL_ADDRESS: world.temporalAddress, TEMPORAL_NAMESPACE: world.namespace };
  const temporal = async (...args: string[]) =>
    (await execa(inject('temporalCLIPath'), [...args, '--output', 'json'], { env })).stdout;
  const harm = async (file: string) => flip(file, await dataOf(512 * KiB)(file));
  await whileHarmed(fileOf(0), harm, async () => {
    await temporal(
      ...['workflow', 'start', '--type', 'VerifyBackup', '--task-queue', 'backupvm'],
      ...['--workflow-id', 'verify', '--input', '{"vm":"web01","level":"content","all":true}'],
    );
    const { status, result } = JSON.parse(await temporal('workflow', 'result', '--workflow-id', 'verify')) as {
      status: string;
      result: VerifyBackupResult;
    };
    expect(status).toBe('COMPLETED');
    expect(result.damaged).toBe(true);
    expect(result.points.map(({ damaged }) => damaged)).toEqual([true, true, true]);
    const place = [512 * KiB];
    expect(result.files.map(({ firstDifferences }) => firstDifferences)).toEqual([place, place, place]);
  });
});

test('the next backup after damage is a full, and what was damaged stays marked', async () => {
  expect((await marks()).every((mark) => mark !== null)).toBe(true); // by the test before
  const next = await world.backUp({ vm: 'web01' });
  expect(next.disks.map(({ type, reason }) => ({ type, reason }))).toEqual([
    { type: 'full', reason: 'parent_damaged' },
  ]);
  expect((await verify({ vm: 'web01', level: 'content' })).damaged).toBe(false);
  expect((await marks()).every((mark) => mark !== null)).toBe(true);
  expect((await verify({ vm: 'web01', level: 'content', all: true })).damaged).toBe(false);
  expect(await marks()).toEqual([null, null, null]);
  const { leases, processes } = await findLeftovers(world);
  expect({ leases, processes }).toEqual({ leases: [], processes: [] });
  const { rows } = await world.database.pool.query('select 1 from chain_leases');
  expect(rows).toEqual([]);
});
