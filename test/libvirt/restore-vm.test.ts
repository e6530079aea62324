import { randomUUID } from 'node:crypto';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { compareWithWitness } from '../../demo/witness.js';
import { runOrThrow } from '../../src/process/run.js';
import { parseDomain } from '../../src/sources/libvirt/domain.js';
import { restore } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { expectNoRestoreLeft, refusalOf, restoreVM, startRestore, targetDirectory } from '../support/restores.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { startBiosDomain, virsh, type BiosDisk, type BiosDomain } from './bios-domain.js';
import { expectUntouchedGuest, plansOf } from './libvirt-backup.js';

const MiB = 1024 * 1024;
const root: BiosDisk = { key: 'root-serial', target: 'vda', sizeBytes: 4 * MiB };
const data: BiosDisk = { key: 'vdb', target: 'vdb', sizeBytes: 2 * MiB + 512, format: 'raw' };
const more: BiosDisk = { key: 'vdc', target: 'vdc', sizeBytes: 1 * MiB };
const all = [root, data, more];
const extraXml = `<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>
  <interface type='user'><mac address='52:54:00:12:34:56'/></interface>`;
const newName = () => `backupvm-test-copy ${randomUUID().slice(0, 8)} it's <2> & "ö"`;

let world: World;
let vm: BiosDomain;
let pointId: string;
/** What the disks held at the point, as raw images. */
let held: Record<string, string>;
let copies: string[] = [];

beforeAll(async () => {
  world = await createWorld('libvirt-restore-vm', { hypervisor: 'libvirt' });
  vm = await startBiosDomain(all, extraXml);
  await vm.guestIO('root-serial', 'write -P 0x11 0 1M');
  await vm.guestIO('vdb', 'write -P 0x22 2M 512');
  const { jobId, disks } = await world.backUp({ vm: vm.name });
  pointId = jobId;
  held = Object.fromEntries(disks.map(({ key }) => [key, join(world.directory, `held-${key}`)]));
  for (const { key, path } of disks) await restore(join(world.repository.path, path), held[key] ?? '');
});
afterEach(async () => {
  for (const name of copies) {
    await virsh('destroy', name).catch(() => '');
    await virsh('undefine', name, '--managed-save').catch(() => '');
  }
  copies = [];
});
afterAll(async () => {
  await vm?.dispose();
  await world?.close();
});

const fresh = () => targetDirectory(world, `out-${randomUUID()}`);
const asVM = (name: string, directory: string) => {
  copies.push(name);
  return { point: pointId, target: { kind: 'vm' as const, name, directory } };
};
const exists = async (name: string) => (await virsh('list', '--all', '--name')).split('\n').includes(name);

/** The files of a definition's disks, by key. */
async function imagesOf(name: string): Promise<Record<string, string>> {
  const { disks } = parseDomain(await virsh('dumpxml', '--inactive', '--domain', name));
  return Object.fromEntries(disks.flatMap(({ key, file }) => (file === null ? [] : [[key, file]])));
}

async function expectHeld(images: Record<string, string>): Promise<void> {
  expect(Object.keys(images).sort()).toEqual(Object.keys(held).sort());
  for (const [key, file] of Object.entries(images)) {
    await compareWithWitness(file, held[key] ?? '', join(world.directory, 'compared.raw'));
  }
}

test('a new VM has an id, addresses and disks of its own, empty drives, and the rest as it was', async () => {
  const [name, directory] = [newName(), await fresh()];
  const { vm: made } = await restoreVM(world, asVM(name, directory));
  const xml = await virsh('dumpxml', '--domain', name);
  expect(xml).toContain(`<uuid>${made?.id ?? ''}</uuid>`);
  expect(made?.id).not.toBe(vm.vmId);
  expect(xml).toMatch(/<mac address='(?!52:54:00:12:34:56)/);
  expect(xml).toContain('<serial>root-serial</serial>');
  expect(xml).toContain(`device='cdrom'`);
  const images = await imagesOf(name);
  for (const file of Object.values(images)) expect(file.startsWith(`${directory}/`)).toBe(true);
  await expectHeld(images); // the raw disk, too, is QCOW2 by now: it can be backed up incrementally
  expect((await virsh('domstate', name)).trim()).toBe('shut off');
  await virsh('start', name);
  expect((await virsh('domstate', vm.vmId)).trim()).toBe('running');
});

test('disks that are not restored are not in the new VM', async () => {
  const [name, directory] = [newName(), await fresh()];
  await restoreVM(world, { ...asVM(name, directory), disks: ['vda'] });
  expect(Object.keys(await imagesOf(name))).toEqual(['root-serial']);
});

test('a VM that has the name is refused, and replaced when it is told to', async () => {
  const [name, directory] = [newName(), await fresh()];
  const { vm: first } = await restoreVM(world, asVM(name, directory));
  const refusal = await refusalOf(world, asVM(name, await fresh()));
  expect(refusal).toMatchObject({ type: 'AlreadyExists' });
  expect(refusal.message).toContain(first?.id);
  const { vm: second } = await restoreVM(world, { ...asVM(name, directory), overwrite: true });
  expect(second?.id).not.toBe(first?.id);
  expect((await virsh('domuuid', name)).trim()).toBe(second?.id);
  expect(await virsh('list', '--all', '--uuid')).not.toContain(first?.id);
  await expectHeld(await imagesOf(name));
  expect((await readdir(directory)).length).toBe(3);
});

test('what is undone after the VM was defined leaves neither VM nor files', async () => {
  const [name, directory] = [newName(), await fresh()];
  const connection = await world.database.pool.connect();
  const handle = await startRestore(world, asVM(name, directory));
  const leaseId = await until('the restore', async () => {
    const { rows } = await world.database.pool.query<{ lease_id: string }>('select lease_id from restores');
    return rows[0]?.lease_id;
  });
  await connection.query('begin');
  await connection.query(`update restores set phase = 'undoing' where lease_id = $1`, [leaseId]);
  const defined = await until('the VM', async () => {
    if (await exists(name)) return 'defined';
    return (await handle.describe()).status.name === 'RUNNING' ? false : 'ended';
  });
  await connection.query('commit');
  connection.release();
  await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'Cancelled' } });
  expect(defined).toBe('defined');
  expect(await exists(name)).toBe(false);
  await expectNoRestoreLeft(world, directory);
});

test('a VM that is saved in mid-run, and a disk that the VM has no more, are refused in place', async () => {
  await virsh('managedsave', vm.vmId);
  try {
    const refusal = await refusalOf(world, { point: pointId, target: { kind: 'in-place' } });
    expect(refusal).toMatchObject({ type: 'VMRunning' });
    expect(refusal.message).toContain('managedsave-remove');
  } finally {
    await virsh('start', vm.vmId);
  }
  await virsh('destroy', vm.vmId);
  await vm.define([root]);
  try {
    expect(await refusalOf(world, { point: pointId, target: { kind: 'in-place' } })).toMatchObject({
      type: 'DiskNotFound',
    });
  } finally {
    await vm.define(all);
    await virsh('start', vm.vmId);
  }
});

test('some disks in place, also one whose file is lost: the others stay, and both next backups are right', async () => {
  await vm.guestIO('root-serial', 'write -P 0x77 0 64k');
  await virsh('destroy', vm.vmId);
  await rm(vm.imageOf('vdb'));
  const before = await stat(vm.imageOf('root-serial'));
  await restoreVM(world, { point: pointId, disks: ['vdb', 'vdc'], target: { kind: 'in-place' } });
  expect((await stat(vm.imageOf('root-serial'))).ino).toBe(before.ino);
  const info = await runOrThrow('qemu-img', ['info', vm.imageOf('vdb')], { timeoutMs: 30_000 });
  expect(info.stdout).toContain('file format: raw');
  await virsh('start', vm.vmId);
  const next = await world.backUp({ vm: vm.name });
  expect(plansOf(next)).toEqual({
    'root-serial': 'full: change_id_lost', // its checkpoint was that of the others, too
    vdb: 'full: restored_in_place',
    vdc: 'full: restored_in_place',
  });
  await vm.guestIO('root-serial', 'write -P 0x78 0 64k');
  const after = await world.backUp({ vm: vm.name });
  expect(plansOf(after)).toEqual({
    'root-serial': 'incremental: parent_good',
    vdb: 'full: no_change_tracking',
    vdc: 'incremental: parent_good',
  });
  const raw = join(world.directory, 'after.raw');
  await restore(join(world.repository.path, after.disks[0]?.path ?? ''), raw);
  await runOrThrow('qemu-io', ['-f', 'raw', '-c', 'read -P 0x78 0 64k', raw], { timeoutMs: 30_000 });
  await expectNothingLeftBehind(world);
  await expectUntouchedGuest(world, vm);
});
