import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createWorld, type World } from '../support/world.js';
import { expectSameContent } from '../support/content.js';

const KiB = 1024;
const MiB = 1024 * KiB;

let world: World;
beforeAll(async () => {
  world = await createWorld('backup-vm');
});
afterAll(() => world.close());

describe('BackupVM', () => {
  test('takes a full, then what changed, then nothing, and each restores byte for byte', async () => {
    const vm = await world.startVM('web01', [
      { key: 'root', sizeBytes: 16 * MiB },
      { key: 'data', sizeBytes: 8 * MiB + 512 },
    ]);
    await vm.write('root', 0, 3 * MiB, 0x11);
    await vm.write('data', 8 * MiB, 512, 0x22);
    const full = await world.backUp({ vm: 'web01' });
    expect(full.disks.map(({ key, type, reason }) => ({ key, type, reason }))).toEqual([
      { key: 'data', type: 'full', reason: 'first_backup' },
      { key: 'root', type: 'full', reason: 'first_backup' },
    ]);
    await expectSameContent(world, vm, full);

    await vm.write('root', 5 * MiB + 512, 100 * KiB, 0x33);
    await vm.zero('root', 1 * MiB, 128 * KiB);
    await vm.write('data', 8 * MiB, 512, 0x44);
    const incremental = await world.backUp({ vm: 'web01' });
    expect(incremental.disks.map(({ type, reason }) => ({ type, reason }))).toEqual([
      { type: 'incremental', reason: 'parent_good' },
      { type: 'incremental', reason: 'parent_good' },
    ]);
    await expectSameContent(world, vm, incremental);

    const nothing = await world.backUp({ vm: 'web01' });
    expect(nothing.disks.map(({ type, changedBytes }) => ({ type, changedBytes }))).toEqual([
      { type: 'incremental', changedBytes: 0 },
      { type: 'incremental', changedBytes: 0 },
    ]);
    await expectSameContent(world, vm, nothing);
    expect(join(world.repository.path, nothing.disks[0]?.path ?? '')).toContain('backup-web01-data-');
  });
});
