import { randomUUID } from 'node:crypto';
import { appendFile, cp, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { addRepository } from '../../src/db/repositories.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { runOrThrow } from '../../src/process/run.js';
import { createMarker } from '../../src/repository/marker.js';
import { withQMP } from '../../src/sources/qmp/client.js';
import { readGraph } from '../../src/sources/qmp/nodes.js';
import { createQMPSource } from '../../src/sources/qmp/qmp-source.js';
import { changeIdOf } from '../../src/sources/source.js';
import { expectSameContent } from '../support/content.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
beforeAll(async () => {
  world = await createWorld('backup-plan');
});
afterAll(() => world.close());

const plans = (result: BackupVMResult) =>
  Object.fromEntries(result.disks.map(({ key, type, reason }) => [key, `${type}: ${reason}`]));

/** A VM with two disks that has been backed up once, and written to since. */
async function backedUpVM(name: string): Promise<StorageDaemon> {
  const vm = await world.startVM(name, [
    { key: 'root', sizeBytes: 4 * MiB },
    { key: 'data', sizeBytes: 4 * MiB },
  ]);
  await vm.write('root', 0, 2 * MiB, 0x11);
  await vm.write('data', 0, 1 * MiB, 0x12);
  await world.backUp({ vm: name });
  await vm.write('root', 1 * MiB, 64 * 1024, 0x21);
  return vm;
}

const fileOf = async (vm: string, key: string): Promise<string> => {
  const { rows } = await world.database.pool.query<{ path: string }>(
    `select d.path from backup_disks d join vm_backup_contexts c on c.id = d.context_id where c.vm_name = $1 and d.disk_key = $2 and d.is_head`,
    [vm, key],
  );
  return join(world.repository.path, rows[0]?.path ?? '');
};

describe('an open snapshot in the way of BackupVM', () => {
  test('is ended where an attempt of an earlier backup has left it that came late, and died', async () => {
    const vm = await backedUpVM('forsaken');
    const snapshotId = randomUUID();
    const { rows } = await world.database.pool.query<{ vmId: string }>(
      `update backup_jobs j set snapshot_ids = $1::uuid || snapshot_ids from vm_backup_contexts c
       where c.id = j.context_id and c.vm_name = 'forsaken' returning c.vm_id as "vmId"`,
      [snapshotId],
    );
    const { scratchDir } = world.config;
    const source = createQMPSource({ uri: `qmp://${join(world.directory, 'machines')}`, scratchDir });
    const disks = ['root', 'data'].map((key) => ({ key, baseChangeId: null }));
    const signal = AbortSignal.timeout(30_000);
    await source.openSnapshot({ snapshotId, vmId: rows[0]?.vmId ?? '', quiesce: 'off', disks }, signal);
    const next = await world.backUp({ vm: 'forsaken' });
    expect(plans(next)).toEqual({ root: 'incremental: parent_good', data: 'incremental: parent_good' });
    await expectSameContent(world, vm, next);
    const { nodes } = await withQMP(join(world.directory, 'machines', 'forsaken.qmp'), signal, readGraph);
    const bitmaps = nodes.flatMap((node) => node['dirty-bitmaps'].map(({ name }) => name));
    expect(bitmaps).toHaveLength(2);
    expect(bitmaps.filter((name) => name.includes(changeIdOf(snapshotId)))).toEqual([]);
  });
});

describe('the plan of BackupVM', () => {
  test('a full that is requested starts a new chain, from which the next incremental goes on', async () => {
    const vm = await backedUpVM('requested');
    expect(plans(await world.backUp({ vm: 'requested', type: 'full' }))).toEqual({
      root: 'full: requested',
      data: 'full: requested',
    });
    await vm.write('root', 0, 4096, 0x31);
    const next = await world.backUp({ vm: 'requested', type: 'incremental' });
    expect(plans(next)).toEqual({ root: 'incremental: parent_good', data: 'incremental: parent_good' });
    await expectSameContent(world, vm, next);
  });

  test('a chain that has reached its longest length is followed by a full, from which the next one goes on', async () => {
    const vm = await world.startVM('capped', [{ key: 'root', sizeBytes: MiB }]);
    const reasons: unknown[] = [];
    for (const pattern of [1, 2, 3, 4]) {
      await vm.write('root', 0, 64 * 1024, pattern);
      reasons.push(plans(await world.backUp({ vm: 'capped', maxChainLength: 2 })).root);
    }
    expect(reasons).toEqual([
      'full: first_backup',
      'incremental: parent_good',
      'full: chain_cap',
      'incremental: parent_good',
    ]);
    expect(plans(await world.backUp({ vm: 'capped' })).root).toBe('incremental: parent_good');
  });

  test('a disk that was added becomes a full, the other goes on', async () => {
    const vm = await backedUpVM('added');
    await vm.stop();
    const grown = await world.startVM('added', [
      { key: 'extra', sizeBytes: 2 * MiB },
      { key: 'root', sizeBytes: 4 * MiB },
      { key: 'data', sizeBytes: 4 * MiB },
    ]);
    await grown.write('extra', 0, 4096, 0x41);
    const result = await world.backUp({ vm: 'added' });
    expect(plans(result)).toEqual({
      extra: 'full: disk_added',
      root: 'incremental: parent_good',
      data: 'incremental: parent_good',
    });
    await expectSameContent(world, grown, result);
  });

  test('two disks of one size that change places become fulls', async () => {
    const vm = await backedUpVM('exchanged');
    await vm.stop();
    const [root, data] = [vm.imageOf('root'), vm.imageOf('data')];
    for (const [from, to] of [
      [root, 'aside'],
      [data, root],
      ['aside', data],
    ] as const)
      await rename(resolve(world.directory, from), resolve(world.directory, to));
    await vm.restart();
    await vm.zero('root', 0, 64 * 1024);
    const result = await world.backUp({ vm: 'exchanged' });
    expect(plans(result)).toEqual({ root: 'full: disk_replaced', data: 'full: disk_replaced' });
    await expectSameContent(world, vm, result);
    await vm.write('root', 0, 64 * 1024, 0x45);
    const next = await world.backUp({ vm: 'exchanged' });
    expect(plans(next)).toEqual({ root: 'incremental: parent_good', data: 'incremental: parent_good' });
    await expectSameContent(world, vm, next);
  });

  test('two disks whose content changed places, bitmaps included, become fulls', async () => {
    const vm = await backedUpVM('overwritten');
    await vm.stop();
    const [root, data] = [vm.imageOf('root'), vm.imageOf('data')];
    const [ofRoot, ofData] = [await readFile(root), await readFile(data)];
    await writeFile(root, ofData); // into the same file: its inode says nothing
    await writeFile(data, ofRoot);
    await vm.restart();
    const result = await world.backUp({ vm: 'overwritten' });
    expect(plans(result)).toEqual({ root: 'full: change_id_lost', data: 'full: change_id_lost' });
    await expectSameContent(world, vm, result);
  });

  test('a disk that is left out for a while keeps its chain', async () => {
    const vm = await backedUpVM('subset');
    expect(plans(await world.backUp({ vm: 'subset', disks: ['root'] }))).toEqual({ root: 'incremental: parent_good' });
    await vm.write('data', 2 * MiB, 4096, 0x51);
    const result = await world.backUp({ vm: 'subset' });
    expect(plans(result)).toEqual({ root: 'incremental: parent_good', data: 'incremental: parent_good' });
    await expectSameContent(world, vm, result);
  });

  test('a disk that grew becomes a full', async () => {
    const vm = await backedUpVM('grown');
    await vm.stop();
    await runOrThrow('qemu-img', ['resize', '-q', vm.imageOf('data'), String(6 * MiB)], { timeoutMs: 10_000 });
    await vm.restart();
    await vm.write('data', 5 * MiB, 4096, 0x61);
    const result = await world.backUp({ vm: 'grown' });
    expect(plans(result)).toEqual({ root: 'incremental: parent_good', data: 'full: disk_grown' });
    await expectSameContent(world, vm, result);
  });

  test('a disk that shrank becomes a full', async () => {
    const vm = await backedUpVM('shrunk');
    await vm.stop();
    const args = ['resize', '-q', '--shrink', vm.imageOf('data'), String(3 * MiB)];
    await runOrThrow('qemu-img', args, { timeoutMs: 10_000 });
    await vm.restart();
    const result = await world.backUp({ vm: 'shrunk' });
    expect(plans(result)).toEqual({ root: 'incremental: parent_good', data: 'full: disk_shrunk' });
    await expectSameContent(world, vm, result);
  });

  test('a disk whose bitmap was lost becomes a full, or fails the backup when that is asked for', async () => {
    const vm = await backedUpVM('lost');
    await vm.kill(); // bitmaps that QEMU had not stored are gone
    await vm.restart();
    await expect(world.backUp({ vm: 'lost', onLostChangeId: 'fail' })).rejects.toMatchObject({
      cause: { type: 'ChangeIdLost' },
    });
    const result = await world.backUp({ vm: 'lost' });
    expect(plans(result)).toEqual({ root: 'full: change_id_lost', data: 'full: change_id_lost' });
    await expectSameContent(world, vm, result);
  });

  test('a parent file that is missing makes a full of that disk', async () => {
    const vm = await backedUpVM('missing');
    await rm(await fileOf('missing', 'root'));
    await expect(world.backUp({ vm: 'missing', onLostChangeId: 'fail' })).rejects.toMatchObject({
      cause: { type: 'ParentUnusable' },
    });
    const result = await world.backUp({ vm: 'missing' });
    expect(plans(result)).toEqual({ root: 'full: parent_missing', data: 'incremental: parent_good' });
    await expectSameContent(world, vm, result);
  });

  test('a parent file that was changed makes a full of that disk', async () => {
    const vm = await backedUpVM('changed');
    await appendFile(await fileOf('changed', 'data'), 'x');
    const result = await world.backUp({ vm: 'changed' });
    expect(plans(result)).toEqual({ root: 'incremental: parent_good', data: 'full: parent_changed' });
    await expectSameContent(world, vm, result);
  });

  test('a parent file that was copied back with another time is as good as before', async () => {
    const vm = await backedUpVM('copied');
    const file = await fileOf('copied', 'root');
    await cp(file, `${file}.copy`);
    await cp(`${file}.copy`, file);
    await utimes(file, new Date(0), new Date(0));
    const result = await world.backUp({ vm: 'copied' });
    expect(plans(result)).toEqual({ root: 'incremental: parent_good', data: 'incremental: parent_good' });
    await expectSameContent(world, vm, result);
  });

  test('two repositories of one VM do not mix their chains', async () => {
    const vm = await backedUpVM('twice');
    const path = join(world.directory, 'second');
    await cp(world.repository.path, path, { recursive: true, filter: (source) => source === world.repository.path });
    const { id } = await createMarker(path, 'second');
    await addRepository(world.database.db, { id, name: 'second', host: world.config.host, path });
    try {
      const second = await world.backUp({ vm: 'twice', repository: 'second' });
      expect(plans(second)).toEqual({ root: 'full: other_repository', data: 'full: other_repository' });
      await vm.write('root', 3 * MiB, 4096, 0x71);
      const first = await world.backUp({ vm: 'twice', repository: 'store' });
      expect(plans(first)).toEqual({ root: 'incremental: parent_good', data: 'incremental: parent_good' });
      await expectSameContent(world, vm, first);
      const again = await world.backUp({ vm: 'twice', repository: 'second' });
      expect(plans(again)).toEqual({ root: 'incremental: parent_good', data: 'incremental: parent_good' });
      await expectSameContent({ ...world, repository: { id, path } }, vm, again);
    } finally {
      await world.database.pool.query(`delete from vm_backup_contexts where repository_id = $1`, [id]);
      await world.database.pool.query(`delete from repositories where id = $1`, [id]);
    }
  });

  test('a raw disk is always copied whole, beside incrementals of the others', async () => {
    const vm = await world.startVM('raw', [
      { key: 'root', sizeBytes: 2 * MiB },
      { key: 'plain', sizeBytes: 2 * MiB, format: 'raw' },
    ]);
    await vm.write('plain', 0, 4096, 0x81);
    expect(plans(await world.backUp({ vm: 'raw' }))).toEqual({
      root: 'full: first_backup',
      plain: 'full: first_backup',
    });
    await vm.zero('plain', 0, 4096);
    const result = await world.backUp({ vm: 'raw' });
    expect(plans(result)).toEqual({ root: 'incremental: parent_good', plain: 'full: no_change_tracking' });
    await expectSameContent(world, vm, result);
  });
});
