import { randomUUID } from 'node:crypto';
import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import { progressQuery } from '../../src/workflows/messages.js';
import { firstDifference, restore } from '../support/content.js';
import { holdClaims, pendingSteps } from '../support/hold-claims.js';
import {
  allocatedBytes,
  expectContent,
  expectNoRestoreLeft,
  refusalOf,
  restoreVM,
  startRestore,
  targetDirectory,
} from '../support/restores.js';
import { makeSmallFileSystem } from '../support/small-file-system.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const rootBytes = 8 * MiB;
const dataBytes = 3 * MiB + 512; // no multiple of a block, nor of a cluster

let world: World;
let vm: StorageDaemon;
let out: string;
/** A chain: full, changed, partly zeroed, grown (a full of one disk), changed again. With what each disk held. */
const points: { result: BackupVMResult; held: Record<string, string> }[] = [];

async function backUp(): Promise<void> {
  const result = await world.backUp({ vm: 'web01' });
  const held: Record<string, string> = {};
  for (const key of ['root', 'data']) {
    held[key] = join(world.directory, `held-${points.length}-${key}`);
    await vm.read(key, held[key]);
  }
  points.push({ result, held });
}

beforeAll(async () => {
  world = await createWorld('restore-files');
  vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: rootBytes },
    { key: 'data', sizeBytes: dataBytes },
  ]);
  await vm.write('root', 0, 2 * MiB, 0x11);
  await vm.write('data', 3 * MiB, 512, 0x22);
  await backUp();
  await vm.write('root', 5 * MiB + 512, 100 * KiB, 0x33);
  await vm.zero('root', 1 * MiB, 512 * KiB);
  await backUp();
  await vm.zero('data', 3 * MiB, 512);
  await vm.write('root', 7 * MiB, 1 * MiB, 0x44);
  await backUp();
});
afterEach(async () => {
  for (const entry of await readdir(out).catch(() => [])) await rm(join(out, entry), { recursive: true });
});
afterAll(() => world.close());

/** An own, empty directory for each test. */
async function fresh(): Promise<string> {
  out = await targetDirectory(world, `out-${randomUUID()}`);
  return out;
}
const names = (format: string) => [`web01-data.${format}`, `web01-root.${format}`];
const latest = () => points.at(-1) ?? expect.fail('no point');

describe('RestoreVM to files', () => {
  test.each(['qcow2', 'raw'] as const)('gives back every point of a chain, byte for byte, as %s', async (format) => {
    for (const { result, held } of points) {
      const directory = await fresh();
      const restored = await restoreVM(world, { point: result.jobId, target: { kind: 'files', directory, format } });
      expect(restored.pointId).toBe(result.jobId);
      expect(restored.disks.map(({ key, path }) => `${key}: ${basename(path)}`)).toEqual([
        `data: web01-data.${format}`,
        `root: web01-root.${format}`,
      ]);
      for (const disk of restored.disks) {
        await expectContent(disk, held[disk.key] ?? 'none', join(world.directory, 'scratch.raw'));
        expect(disk.differentBlocks).toBe(0);
        expect(disk.verifiedBlocks).toBe(Math.ceil(disk.sizeBytes / (256 * KiB)));
      }
      await expectNoRestoreLeft(world, directory, names(format));
      expect((await stat(join(directory, `web01-root.${format}`))).mode & 0o777).toBe(0o600);
    }
  });

  test('writes holes as holes, and says how much it wrote', async () => {
    const directory = await fresh();
    const { disks } = await restoreVM(world, { vm: 'web01', target: { kind: 'files', directory, format: 'raw' } });
    const written = Object.fromEntries(disks.map(({ key, writtenBytes }) => [key, writtenBytes]));
    expect(written['root']).toBeGreaterThan(2 * MiB);
    expect(written['root']).toBeLessThan(3 * MiB); // 1.5 + 0.1 + 1 MiB of 8
    expect(written['data']).toBeLessThanOrEqual(4 * KiB); // all of it is zero by now, and a raw file keeps its first block
    expect(await allocatedBytes(join(directory, 'web01-root.raw'))).toBeLessThan(3 * MiB);
    expect(await allocatedBytes(join(directory, 'web01-data.raw'))).toBeLessThan(64 * KiB);
  });

  test('takes the newest point at or before a time, and refuses a time before the first', async () => {
    const times = await Promise.all(
      points.map(async ({ result }) => {
        const { rows } = await world.database.pool.query<{ point_time: Date }>(
          `select point_time from backup_jobs where id = $1`,
          [result.jobId],
        );
        return rows[0]?.point_time.getTime() ?? 0;
      }),
    );
    const at = (ms: number) => new Date(ms).toISOString();
    const directory = await fresh();
    const ofTime = async (time: string) =>
      (await restoreVM(world, { vm: 'web01', at: time, overwrite: true, target: { kind: 'files', directory } }))
        .pointId;
    expect(await ofTime(at(times[0] ?? 0))).toBe(points[0]?.result.jobId);
    expect(await ofTime(at((times[1] ?? 0) - 1))).toBe(points[0]?.result.jobId);
    expect(await ofTime(at((times[2] ?? 0) + 3_600_000))).toBe(points[2]?.result.jobId);
    const tooEarly = { vm: 'web01', at: at((times[0] ?? 0) - 1), target: { kind: 'files' as const, directory } };
    expect(await refusalOf(world, tooEarly)).toMatchObject({ type: 'PointNotFound' });
  });

  test('restores the disks that are named, by key', async () => {
    const directory = await fresh();
    const { disks } = await restoreVM(world, { vm: 'web01', disks: ['data'], target: { kind: 'files', directory } });
    expect(disks.map(({ key }) => key)).toEqual(['data']);
    await expectNoRestoreLeft(world, directory, ['web01-data.qcow2']);
  });

  test('replaces files when it is told to, and none that it does not restore', async () => {
    const directory = await fresh();
    await writeFile(join(directory, 'web01-root.qcow2'), 'an older restore', { mode: 0o640 });
    await writeFile(join(directory, 'else'), 'not ours');
    const target = { kind: 'files' as const, directory };
    const { disks } = await restoreVM(world, { vm: 'web01', disks: ['root'], overwrite: true, target });
    await expectContent(
      disks[0] ?? expect.fail('no disk'),
      latest().held['root'] ?? '',
      join(world.directory, 'scratch.raw'),
    );
    expect((await stat(join(directory, 'web01-root.qcow2'))).mode & 0o777).toBe(0o640);
    expect(await readFile(join(directory, 'else'), 'utf8')).toBe('not ours');
    await expectNoRestoreLeft(world, directory, ['else', 'web01-root.qcow2']);
  });

  test('two at once of one point go beside each other', async () => {
    const [first, second] = [await targetDirectory(world, 'twin-1'), await targetDirectory(world, 'twin-2')];
    await Promise.all(
      [first, second].map((directory) => restoreVM(world, { vm: 'web01', target: { kind: 'files', directory } })),
    );
    await expectNoRestoreLeft(world, first, names('qcow2'));
    await expectNoRestoreLeft(world, second, names('qcow2'));
  });

  test('goes on beside a backup of the same VM', async () => {
    const directory = await fresh();
    const target = { kind: 'files' as const, directory };
    const { result, held } = latest();
    const [{ disks }, backup] = await Promise.all([
      restoreVM(world, { point: result.jobId, target }),
      world.backUp({ vm: 'web01' }),
    ]);
    expect(backup.disks.map(({ type }) => type)).toEqual(['incremental', 'incremental']);
    for (const disk of disks) await expectContent(disk, held[disk.key] ?? '', join(world.directory, 'scratch.raw'));
    await expectNoRestoreLeft(world, directory, names('qcow2'));
  });

  test('waits while restore points are removed, says for whom, and goes on after that', async () => {
    const directory = await fresh();
    const { rows } = await world.database.pool.query<{ id: string }>(
      `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
       select (select namespace_id from installations), gen_random_uuid(), context_id, 'exclusive', 'prune', 'prune/web01', 'run' from backup_jobs limit 1 returning id`,
    );
    const handle = await startRestore(world, { vm: 'web01', target: { kind: 'files', directory } });
    await until('the restore to wait', async () => {
      const { step } = await handle.query(progressQuery).catch(() => ({ step: '' }));
      return step === `waiting for the prune of workflow 'prune/web01'`;
    });
    expect(await readdir(directory)).toEqual([]);
    await world.database.pool.query(`delete from chain_leases where id = $1`, [rows[0]?.id]);
    await handle.result();
    await expectNoRestoreLeft(world, directory, names('qcow2'));
  });

  test('a copy of the repository restores without us: by qemu-img alone, where the database is lost', async () => {
    const copy = join(world.directory, 'copied-repository');
    await cp(world.repository.path, copy, { recursive: true });
    for (const { result, held } of points) {
      for (const { key, path } of result.disks) {
        const raw = join(world.directory, 'by-hand.raw');
        await restore(join(copy, path), raw);
        expect(await firstDifference(raw, held[key] ?? '')).toBeUndefined();
      }
    }
    await rm(copy, { recursive: true });
  });
});

describe('a RestoreVM that is cancelled', () => {
  // In every step: a full history of two disks has about 40 events.
  test.each([4, 10, 16, 21, 26, 31])('at event %i leaves all files or none', async (events) => {
    const directory = await fresh();
    const handle = await startRestore(world, { vm: 'web01', target: { kind: 'files', directory } });
    await until(`event ${events}`, async () => {
      const { historyLength, status } = await handle.describe();
      return historyLength >= events || status.name !== 'RUNNING';
    });
    await handle.cancel().catch(() => undefined); // it may be complete already
    await handle
      .result()
      .catch((error: unknown) => expect(error).toMatchObject({ cause: { name: 'CancelledFailure' } }));
    const found = await readdir(directory);
    await expectNoRestoreLeft(world, directory, found.length === 0 ? [] : names('qcow2'));
  });

  test('while a disk is about to be written leaves none', async () => {
    const directory = await fresh();
    const claims = await holdClaims(world);
    const handle = await startRestore(world, { vm: 'web01', target: { kind: 'files', directory } });
    await until('the disks to begin', async () => (await pendingSteps(handle, 'restoreDisk')) === 2);
    await handle.cancel();
    await claims.release();
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    await expectNoRestoreLeft(world, directory);
  });
});

describe('RestoreVM to a file system that is full', () => {
  test('says before it begins what is needed and what is free; and when it fills meanwhile, leaves nothing', async () => {
    const small = await makeSmallFileSystem(await targetDirectory(world, 'small'), 'small', 16 * MiB);
    try {
      const directory = join(small.path, 'out');
      await mkdir(directory);
      await small.fill(1 * MiB);
      const target = { kind: 'files' as const, directory, format: 'raw' as const };
      const refusal = await refusalOf(world, { vm: 'web01', target });
      expect(refusal.type).toBe('TargetFull');
      expect(refusal.message).toMatch(/Expected [\d.]+ MiB free .* found [\d.]+ (MiB|KiB)/);
      await expectNoRestoreLeft(world, directory);

      await small.empty();
      const claims = await holdClaims(world);
      const handle = await startRestore(world, { vm: 'web01', target });
      await until('the look at the free space', async () => {
        const { rowCount } = await world.database.pool.query('select 1 from restore_disks');
        return rowCount === 2;
      });
      await small.fillUp();
      await claims.release();
      await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'TargetFull' } });
      await expectNoRestoreLeft(world, directory);
    } finally {
      await small.remove();
    }
  });
});
