import { copyFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { createWorld, type World } from '../support/world.js';
import { shutDown, startBiosDomain, virsh, type BiosDisk, type BiosDomain } from './bios-domain.js';
import { backUpAndCompare, expectUntouchedGuest, plansOf } from './libvirt-backup.js';

const MiB = 1024 * 1024;
const disks: BiosDisk[] = [
  { key: 'vda', target: 'vda', sizeBytes: 8 * MiB },
  { key: 'vdb', target: 'vdb', sizeBytes: 8 * MiB },
];
const replaced = { vda: 'full: disk_replaced', vdb: 'full: disk_replaced' };
const incrementals = { vda: 'incremental: parent_good', vdb: 'incremental: parent_good' };

let world: World;
let domain: BiosDomain;
/** Runs once, after a backup was planned and before it opens its snapshot. */
let beforeSnapshot: (() => Promise<void>) | undefined;
beforeAll(async () => {
  world = await createWorld('libvirt-identity', {
    hypervisor: 'libvirt',
    activityInterceptors: [
      ({ info }) => ({
        inbound: {
          async execute(input, next) {
            const act = info.activityType === 'openSnapshot' ? beforeSnapshot : undefined;
            if (act) beforeSnapshot = undefined;
            await act?.();
            return next(input);
          },
        },
      }),
    ],
  });
});
afterEach(async () => {
  try {
    await expectNothingLeftBehind(world);
    await expectUntouchedGuest(world, domain);
  } finally {
    await domain.dispose();
  }
});
afterAll(() => world.close());

async function start(wanted = disks): Promise<void> {
  domain = await startBiosDomain(wanted);
  for (const [index, { key }] of wanted.entries()) await domain.guestIO(key, `write -P ${0xaa + index} 0 4M`);
}

/** `images` says where the image of a key is, where it is not the one that the domain was made with. */
const backUp = (images: Record<string, string> = {}, keys = disks.map(({ key }) => key)) =>
  backUpAndCompare(world, {
    name: domain.name,
    vmId: domain.vmId,
    disks: keys.map((key) => ({ key, image: images[key] ?? domain.imageOf(key) })),
  });

const exchanged = () => ({ vda: domain.imageOf('vdb'), vdb: domain.imageOf('vda') });

async function exchange(): Promise<void> {
  await shutDown(domain.vmId);
  await domain.exchange('vda', 'vdb');
  await virsh('start', domain.vmId);
}

test('two disks of one size and without serial that change places become fulls, and then go on', async () => {
  await start();
  await backUp();
  await exchange();
  await domain.guestIO('vda', 'write -P 0xcc 6M 64k');
  await domain.guestIO('vdb', 'write -z -u 1M 64k');
  expect(plansOf(await backUp(exchanged()))).toEqual(replaced);
  await domain.guestIO('vda', 'write -z -u 2M 64k');
  expect(plansOf(await backUp(exchanged()))).toEqual(incrementals);
});

test('disks that change places after the backup was planned, and before its snapshot is open, become fulls', async () => {
  await start();
  await backUp();
  beforeSnapshot = exchange;
  const result = await world.backUp({ vm: domain.name, quiesce: 'off' });
  expect(plansOf(result)).toEqual(replaced);
  await domain.guestIO('vda', 'write -P 0xcc 6M 64k');
  expect(plansOf(await backUp(exchanged()))).toEqual(incrementals);
});

test('a copy of a disk that is attached under its serial becomes a full: its bitmap is as good as that of the first', async () => {
  await start([{ key: 'serial', target: 'vda', sizeBytes: 8 * MiB }]);
  await backUp({}, ['serial']);
  await shutDown(domain.vmId);
  const copy = join(domain.directory, 'copy.img');
  await copyFile(domain.imageOf('serial'), copy);
  await virsh('start', domain.vmId);
  await domain.guestIO('serial', 'write -P 0xdd 2M 1M');
  await backUp({}, ['serial']); // the copy has never seen this
  await shutDown(domain.vmId);
  await domain.useImage('serial', copy);
  await virsh('start', domain.vmId);
  await domain.guestIO('serial', 'write -z -u 0 64k');
  expect(plansOf(await backUp({ serial: copy }, ['serial']))).toEqual({ serial: 'full: disk_replaced' });
  await domain.guestIO('serial', 'write -z -u 1M 64k');
  expect(plansOf(await backUp({ serial: copy }, ['serial']))).toEqual({ serial: 'incremental: parent_good' });
});

test('an external snapshot, and its commit, each cost a full of that disk, and nothing else', async () => {
  await start();
  await backUp();
  const overlay = join(domain.directory, 'overlay.img');
  const diskspecs = ['--diskspec', `vda,file=${overlay}`, '--diskspec', 'vdb,snapshot=no'];
  await virsh('snapshot-create-as', domain.vmId, 'before-upgrade', '--disk-only', '--no-metadata', ...diskspecs);
  await domain.guestIO('vda', 'write -z -u 1M 64k');
  expect(plansOf(await backUp({ vda: overlay }))).toEqual({ ...incrementals, vda: 'full: disk_replaced' });
  await virsh('blockcommit', domain.vmId, 'vda', '--active', '--pivot', '--wait');
  await domain.guestIO('vda', 'write -z -u 2M 64k');
  expect(plansOf(await backUp())).toEqual({ ...incrementals, vda: 'full: disk_replaced' });
  await domain.guestIO('vda', 'write -z -u 3M 64k');
  expect(plansOf(await backUp())).toEqual(incrementals);
});
