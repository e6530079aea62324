import { randomUUID } from 'node:crypto';
import { copyFile, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { restoredFileName } from '../../src/domain/names.js';
import { runOrThrow } from '../../src/process/run.js';
import { fileChecksum } from '../../src/repository/files.js';
import { firstDifference, restore } from '../support/content.js';
import { holdTable } from '../support/hold-table.js';
import { refusalOf, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { defineBiosDomain, virsh, type BiosDomain } from './bios-domain.js';

// A restore in place replaces images, and nothing that refers to them: wherever something does, the VM would read a mixture.

const MiB = 1024 * 1024;
const key = 'mixture-serial';
const signal = AbortSignal.timeout(600_000);

let world: World;
let vm: BiosDomain;
let others: BiosDomain[] = [];
let pointId: string;
/** What the disk held at the point: data, and a MiB that had become zero. */
let held: string;

beforeAll(async () => {
  world = await createWorld('restore-mixture', { hypervisor: 'libvirt' });
});
beforeEach(async () => {
  vm = await defineBiosDomain([{ key, target: 'vda', sizeBytes: 4 * MiB }]);
});
afterEach(async () => {
  for (const domain of [vm, ...others]) {
    const snapshots = (await virsh('snapshot-list', domain.vmId, '--name')).split('\n').filter(Boolean);
    for (const snapshot of snapshots) await virsh('snapshot-delete', domain.vmId, snapshot, '--metadata');
    await domain.dispose();
  }
  others = [];
});
afterAll(() => world?.close());

const qemuImg = (...args: string[]) => runOrThrow('qemu-img', args, { timeoutMs: 30_000 });
const image = () => vm.imageOf(key);
const inPlace = () => ({ point: pointId, target: { kind: 'in-place' as const } });

/** Starts the VM, fills its disk, makes a part of it zero, backs it up, and stops it. */
async function backUpAndStop(): Promise<void> {
  await virsh('start', vm.vmId);
  await vm.guestIO(key, 'write -P 0xbb 0 4M');
  await vm.guestIO(key, 'write -z -u 0 1M');
  await backUpRunning();
  await virsh('destroy', vm.vmId);
}

async function backUpRunning(): Promise<void> {
  const { jobId, disks } = await world.backUp({ vm: vm.name }, `backup/${randomUUID()}`);
  pointId = jobId;
  held = join(world.directory, `held-${jobId}`);
  await restore(join(world.repository.path, disks[0]?.path ?? ''), held);
}

async function edit(change: (xml: string) => string, domain = vm): Promise<void> {
  const file = join(domain.directory, 'edited.xml');
  await writeFile(file, change(await readFile(join(domain.directory, 'domain.xml'), 'utf8')));
  await virsh('define', file);
}

/** The restore is refused with these words, and the VM's folder, with every byte in it, stays as it was. */
async function expectRefused(type: string, ...words: string[]): Promise<void> {
  const before = await contentOf(vm.directory);
  const refusal = await refusalOf(world, inPlace());
  expect(refusal).toMatchObject({ type });
  for (const word of words) expect(refusal.message).toContain(word);
  expect(await contentOf(vm.directory)).toEqual(before);
}

async function contentOf(directory: string): Promise<string[]> {
  const names = (await readdir(directory)).filter((name) => /\.(img|qcow2|partial|before)$/.test(name)).sort();
  const describe = async (name: string) => {
    const file = join(directory, name);
    return `${name} ${(await stat(file)).ino} ${await fileChecksum(file, signal)}`;
  };
  return Promise.all(names.map(describe));
}

/** What the VM now reads, taken by a full backup of it, is what its disk held at the point. */
async function expectRestored(): Promise<void> {
  const expected = held;
  await virsh('start', vm.vmId);
  await backUpRunning();
  await virsh('destroy', vm.vmId);
  expect(await firstDifference(held, expected)).toBeUndefined();
}

test('a VM with an external snapshot is refused until the snapshot is merged; restored then, or to a new VM, it is right', async () => {
  await virsh('start', vm.vmId);
  await vm.guestIO(key, 'write -P 0xbb 0 4M');
  const overlay = join(vm.directory, 'overlay.qcow2');
  await virsh('snapshot-create-as', vm.vmId, 'before-upgrade', '--disk-only', '--diskspec', `vda,file=${overlay}`);
  await vm.guestIO(key, 'write -z -u 0 1M');
  await backUpRunning();
  await vm.guestIO(key, 'write -P 0x22 2M 1M');
  await virsh('destroy', vm.vmId);
  await expectRefused('TargetUnusable', `'before-upgrade'`, 'snapshot-delete', 'blockcommit');
  await virsh('snapshot-delete', vm.vmId, 'before-upgrade', '--metadata');
  await expectRefused('TargetUnusable', image(), `blockcommit '${vm.name}' vda --active --pivot`, 'new VM');

  const name = `${vm.name} copy`;
  const directory = await targetDirectory(world, `copy-${randomUUID()}`);
  try {
    const { disks } = await restoreVM(world, { point: pointId, target: { kind: 'vm', name, directory } });
    await restore(disks[0]?.path ?? '', join(world.directory, 'copy.raw'));
    expect(await firstDifference(join(world.directory, 'copy.raw'), held)).toBeUndefined();
  } finally {
    await virsh('undefine', name);
  }

  await virsh('start', vm.vmId);
  await virsh('blockcommit', vm.vmId, 'vda', '--active', '--pivot', '--wait');
  await virsh('destroy', vm.vmId);
  await restoreVM(world, inPlace());
  await expectRestored();
});

test('a backing file that only the old image names does not shine through', async () => {
  const base = join(vm.directory, 'base.qcow2');
  await qemuImg('create', '-q', '-f', 'qcow2', base, '4M');
  await runOrThrow('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 0xee 0 4M', base], { timeoutMs: 30_000 });
  await qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', image());
  await backUpAndStop();
  await restoreVM(world, inPlace());
  expect((await qemuImg('info', image())).stdout).not.toContain('backing file');
  await expectRestored();
});

test('a VM with an internal snapshot is refused, also when only the image knows of it, until it is deleted', async () => {
  await virsh('start', vm.vmId);
  await virsh('snapshot-create-as', vm.vmId, 'evening');
  await virsh('destroy', vm.vmId);
  await backUpAndStop();
  await expectRefused('TargetUnusable', `'evening'`, 'snapshot-delete');
  await virsh('snapshot-delete', vm.vmId, 'evening', '--metadata');
  await expectRefused('TargetUnusable', `'evening'`, 'qemu-img snapshot -d');
  await qemuImg('snapshot', '-d', 'evening', image());
  await restoreVM(world, inPlace());
  await expectRestored();
});

describe('refused in place', () => {
  beforeEach(backUpAndStop);

  test.each(['transient', 'shareable'])('a disk that is %s', async (word) => {
    await edit((xml) => xml.replace(`<target dev='vda'`, `<${word}/><target dev='vda'`).replace(`'qcow2'`, `'raw'`));
    await expectRefused('TargetUnusable', key, word);
  });

  test('an image that keeps its data in another file', async () => {
    const data = join(vm.directory, 'data.raw');
    await qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data}`, image(), '4M');
    await expectRefused('TargetUnusable', data);
  });

  test('an image that another VM uses, also through a link, or that the disk of another VM is based on', async () => {
    const other = await defineBiosDomain([{ key: 'other', target: 'vdz', sizeBytes: 4 * MiB }]);
    others = [other];
    const link = join(other.directory, 'link.img');
    await symlink(image(), link);
    await edit((xml) => xml.replace(other.imageOf('other'), link), other);
    await expectRefused('InUse', other.name, `'vdz'`);
    await edit((xml) => xml, other);
    await qemuImg('create', '-q', '-f', 'qcow2', '-b', image(), '-F', 'qcow2', other.imageOf('other'));
    await expectRefused('InUse', other.name, `'vdz'`, 'based on it');
    const directory = await targetDirectory(world, `used-${randomUUID()}`);
    const used = join(directory, restoredFileName(vm.name, 'vda', 'qcow2'));
    await copyFile(image(), used);
    await edit((xml) => xml.replace(other.imageOf('other'), used), other);
    const target = { kind: 'files' as const, directory };
    expect(await refusalOf(world, { point: pointId, target, overwrite: true })).toMatchObject({ type: 'InUse' });
  });
});

test('what changes in the VM while a restore goes on is seen by its last look, and nothing is replaced', async () => {
  await backUpAndStop();
  const before = await contentOf(vm.directory);
  const base = join(world.directory, 'base.qcow2');
  await qemuImg('create', '-q', '-f', 'qcow2', base, '4M');
  const store = `<backingStore type='file'><format type='qcow2'/><source file='${base}'/><backingStore/></backingStore>`;
  const rows = await holdTable(world, 'restore_disks'); // the first look is done when the rows are to be inserted
  const refusal = refusalOf(world, inPlace());
  try {
    await rows.isWaitedFor();
    await edit((xml) => xml.replace(`<target dev='vda'`, `${store}<target dev='vda'`));
  } finally {
    await rows.release();
  }
  expect(await refusal).toMatchObject({ type: 'TargetUnusable', message: expect.stringContaining(base) as string });
  expect(await contentOf(vm.directory)).toEqual(before);
});
