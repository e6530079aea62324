import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { ForgetVMResult } from '../../src/domain/forget-input.js';
import { run } from '../../src/process/run.js';
import { imageBitmaps } from '../../src/qemu/image-bitmaps.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { createWorld, type World } from '../support/world.js';
import { shutDown, startBiosDomain, virsh, type BiosDisk, type BiosDomain } from './bios-domain.js';
import { backUpAndCompare, checkpointsOf, expectUntouchedGuest, plansOf } from './libvirt-backup.js';

const MiB = 1024 * 1024;
const disks: BiosDisk[] = [
  { key: 'root', target: 'vda', sizeBytes: 4 * MiB },
  { key: 'vdb', target: 'vdb', sizeBytes: 2 * MiB },
];

let world: World;
let domain: BiosDomain;
beforeAll(async () => {
  world = await createWorld('libvirt-forget', { hypervisor: 'libvirt' });
});
afterEach(async () => {
  try {
    await expectNothingLeftBehind(world);
  } finally {
    for (const name of await snapshots()) await virsh('snapshot-delete', domain.vmId, name, '--metadata');
    await domain.dispose();
  }
});
afterAll(() => world.close());

async function startVM(): Promise<void> {
  domain = await startBiosDomain(disks);
  for (const { key } of disks) await domain.guestIO(key, 'write -P 0x11 0 1M');
}

const backUp = () =>
  backUpAndCompare(world, {
    name: domain.name,
    vmId: domain.vmId,
    disks: disks.map(({ key }) => ({ key, image: domain.imageOf(key) })),
  });

const forget = async (): Promise<ForgetVMResult> =>
  (await world.client.workflow.execute('ForgetVM', {
    ...{ taskQueue: mainQueue, workflowId: `forget-vm/${domain.name}` },
    args: [{ vm: domain.name }],
  })) as ForgetVMResult;

const stateOf = async () => (await virsh('domstate', domain.vmId)).trim();
const snapshots = async () => (await virsh('snapshot-list', domain.vmId, '--name')).split(/\s+/).filter(Boolean);
const bitmapsOf = async (key: string) => (await imageBitmaps(domain.imageOf(key))).sort();
const forgotten = { root: 'full: change_ids_forgotten', vdb: 'full: change_ids_forgotten' };
const incrementals = { root: 'incremental: parent_good', vdb: 'incremental: parent_good' };

test('a VM with internal snapshots: its first backup warns that a revert will fail, and after ForgetVM it works', async () => {
  await startVM();
  await virsh('snapshot-create-as', domain.vmId, 'evening');
  await domain.guestIO('root', 'write -P 0x22 2M 64k');
  const first = await backUp();
  expect(first.warnings).toContainEqual(
    expect.stringMatching(/internal snapshots \('evening'\).*snapshot-revert.*backupvm vm forget/),
  );
  const revert = () =>
    run('virsh', ['-q', '-c', 'qemu:///system', 'snapshot-revert', domain.vmId, 'evening'], { timeoutMs: 60_000 });
  // What the warning is about: libvirt has stopped the VM when QEMU refuses.
  expect([(await revert()).exitCode, await stateOf()]).toEqual([1, 'shut off']);
  await virsh('start', domain.vmId);
  expect((await backUp()).warnings.join()).not.toContain('snapshot'); // said once

  const changeIds = await checkpointsOf(domain);
  const result = await forget();
  expect(result).toEqual({ vm: domain.name, vmId: domain.vmId, forgotten: changeIds });
  expect(await checkpointsOf(domain)).toEqual([]);
  expect([(await revert()).exitCode, await stateOf()]).toEqual([0, 'running']);

  await domain.guestIO('root', 'write -z -u 0 64k');
  expect(plansOf(await backUp())).toEqual(forgotten);
  await domain.guestIO('root', 'write -P 0x33 3M 64k');
  expect(plansOf(await backUp())).toEqual(incrementals);
  await expectUntouchedGuest(world, domain);
});

test('ForgetVM removes also what no restore point knows, and nothing of anybody else, from a VM that runs', async () => {
  await startVM();
  await backUp();
  const checkpoint = (name: string) => virsh('checkpoint-create-as', domain.vmId, name);
  await checkpoint('backupvm-of-a-lost-database');
  await checkpoint('nightly');
  await checkpoint('backupvm-without-record');
  await shutDown(domain.vmId); // its bitmaps are in the images now
  await virsh('start', domain.vmId);
  await virsh('checkpoint-delete', domain.vmId, 'backupvm-without-record', '--metadata');
  const { forgotten: names } = await forget();
  expect(names).toEqual(expect.arrayContaining(['backupvm-of-a-lost-database', 'backupvm-without-record']));
  expect(names).toHaveLength(3);
  expect([await checkpointsOf(domain), await stateOf()]).toEqual([['nightly'], 'running']);
  for (const { key } of disks) expect(await bitmapsOf(key)).toEqual(['nightly']);
  expect((await forget()).forgotten).toEqual([]);
  expect(plansOf(await backUp())).toEqual(forgotten);
});

test('ForgetVM does the same for a VM that is shut off', async () => {
  await startVM();
  await backUp();
  await virsh('checkpoint-create-as', domain.vmId, 'backupvm-without-record');
  await virsh('checkpoint-create-as', domain.vmId, 'nightly');
  await shutDown(domain.vmId);
  await virsh('checkpoint-delete', domain.vmId, 'backupvm-without-record', '--metadata');
  expect((await forget()).forgotten).toHaveLength(2);
  expect([await checkpointsOf(domain), await stateOf()]).toEqual([['nightly'], 'shut off']);
  for (const { key } of disks) expect(await bitmapsOf(key)).toEqual(['nightly']);
  await virsh('start', domain.vmId);
  expect(plansOf(await backUp())).toEqual(forgotten);
});

test('a checkpoint that has lost the bitmap of one disk leaves none on the others when it is dropped', async () => {
  await startVM();
  await backUp();
  const [changeId = ''] = await checkpointsOf(domain);
  await shutDown(domain.vmId);
  await run('qemu-img', ['bitmap', '--remove', domain.imageOf('vdb'), changeId], { timeoutMs: 10_000 });
  await virsh('start', domain.vmId);
  expect(await bitmapsOf('root')).toEqual([changeId]);
  await domain.source.dropChangeIds(domain.vmId, [changeId], AbortSignal.timeout(60_000));
  expect([await checkpointsOf(domain), await bitmapsOf('root')]).toEqual([[], []]);
});
