import { randomUUID } from 'node:crypto';
import { readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { mainQueue } from '../../src/workflows/messages.js';
import type { ReconcileHostResult } from '../../src/workflows/reconcile-host.js';
import { firstDifference, restore } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { restoreVM } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { defineBiosDomain, virsh, type BiosDomain } from './bios-domain.js';
import { expectUntouchedGuest } from './libvirt-backup.js';

const MiB = 1024 * 1024;
const key = 'kept-serial';
let world: World;
let vm: BiosDomain;
let others: BiosDomain[] = [];

beforeAll(async () => {
  world = await createWorld('kept-disk', { hypervisor: 'libvirt' });
  vm = await defineBiosDomain([{ key, target: 'vda', sizeBytes: 4 * MiB }]);
});
afterAll(async () => {
  for (const domain of [vm, ...others]) await domain?.dispose();
  await world?.close();
});

/** Takes a point of the VM, which runs, and turns it into a raw image. */
async function backUp(): Promise<{ pointId: string; held: string }> {
  const { jobId: pointId, disks } = await world.backUp({ vm: vm.name }, `backup/${randomUUID()}`);
  const held = join(world.directory, `held-${pointId}`);
  await restore(join(world.repository.path, disks[0]?.path ?? ''), held);
  return { pointId, held };
}

async function reconcile(): Promise<string[]> {
  const args = [{ host: world.config.host }];
  const options = { taskQueue: mainQueue, workflowId: `reconcile/${randomUUID()}`, args };
  const { keptDisks } = (await world.client.workflow.execute('ReconcileHost', options)) as ReconcileHostResult;
  return (keptDisks ?? []).map(({ outcome }) => outcome);
}

const expire = () => world.database.pool.query(`update kept_disks set kept_until = now() - interval '1 second'`);

test('what a restore in place replaced is kept for a day, can be put back by hand, and goes only when no VM uses it', async () => {
  await virsh('start', vm.vmId);
  await vm.guestIO(key, 'write -P 0x11 0 2M');
  const good = await backUp();
  await vm.guestIO(key, 'write -P 0x22 1M 2M');
  await vm.guestIO(key, 'write -z -u 0 1M');
  const later = await backUp();
  await virsh('destroy', vm.vmId);

  const image = vm.imageOf(key);
  const before = await stat(image);
  const { kept } = await restoreVM(world, { point: good.pointId, target: { kind: 'in-place' } });
  expect(kept.map(({ path }) => path)).toEqual([image]);
  const hours = (new Date(kept[0]?.keptUntil ?? 0).getTime() - Date.now()) / 3_600_000;
  expect(hours).toBeGreaterThan(23);
  expect(hours).toBeLessThan(25);
  const keptPath = kept[0]?.keptPath ?? '';
  expect((await stat(keptPath)).ino).toBe(before.ino);
  expect(await reconcile()).toEqual(['kept']);

  await rename(keptPath, image); // the way back of docs/cli.md
  await virsh('start', vm.vmId);
  const back = await backUp();
  expect(await firstDifference(back.held, later.held)).toBeUndefined();
  expect(await reconcile()).toEqual(['kept']);
  await expire();
  expect(await reconcile()).toEqual(['gone']);
  expect((await stat(image)).ino).toBe(before.ino);
  await virsh('destroy', vm.vmId);

  const again = await restoreVM(world, { point: good.pointId, target: { kind: 'in-place' } });
  const used = again.kept[0]?.keptPath ?? '';
  const other = await defineBiosDomain([{ key: 'looker', target: 'vdq', sizeBytes: MiB }]);
  others = [other];
  const file = join(other.directory, 'domain.xml');
  await writeFile(file, (await readFile(file, 'utf8')).replace(other.imageOf('looker'), used));
  await virsh('define', file);
  await expire();
  expect(await reconcile()).toEqual([expect.stringContaining(`disk 'vdq' of VM '${other.name}'`)]);
  expect((await stat(used)).ino).toBe(before.ino);
  await virsh('undefine', other.vmId);
  expect(await reconcile()).toEqual(['removed']);
  await expect(stat(used)).rejects.toMatchObject({ code: 'ENOENT' });

  const dropped = await restoreVM(world, {
    ...{ point: good.pointId, target: { kind: 'in-place' } },
    keepReplaced: 'none',
  });
  expect(dropped.kept).toEqual([]);
  await virsh('start', vm.vmId);
  const now = await backUp();
  expect(await firstDifference(now.held, good.held)).toBeUndefined();
  await expectNothingLeftBehind(world);
  await expectUntouchedGuest(world, vm);
});
