import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { restartLibvirtd, systemUri } from '../../demo/libvirtd.js';
import { runOrThrow } from '../../src/process/run.js';
import { createLibvirtSource } from '../../src/sources/libvirt/libvirt-source.js';
import { changeIdOf, type OpenSnapshot, type SnapshotDisk } from '../../src/sources/source.js';
import { readExport } from '../contract/source-fixture.js';
import { defineBiosDomain, qemuPid, startBiosDomain, virsh, type BiosDisk, type BiosDomain } from './bios-domain.js';

const signal = new AbortController().signal;
const MiB = 1024 * 1024;
const disks: BiosDisk[] = [
  { key: 'one', target: 'vda', sizeBytes: 2 * MiB },
  { key: 'two', target: 'vdb', sizeBytes: 2 * MiB },
  { key: 'vdc', target: 'vdc', sizeBytes: MiB, format: 'raw' },
];
let domain: BiosDomain;

type Bases = Record<string, string | null>;

function open(bases: Bases, snapshotId: string = randomUUID(), quiesce: 'auto' | 'require' | 'off' = 'off') {
  const request = {
    snapshotId,
    vmId: domain.vmId,
    quiesce,
    disks: [] as { key: string; baseChangeId: string | null }[],
  };
  request.disks = Object.entries(bases).map(([key, baseChangeId]) => ({ key, baseChangeId }));
  return domain.source.openSnapshot(request, signal);
}

async function makeBase(bases: Bases): Promise<string> {
  const snapshotId = randomUUID();
  await open(bases, snapshotId);
  await domain.source.closeSnapshot(domain.vmId, snapshotId, signal);
  return changeIdOf(snapshotId);
}

function diskOf(snapshot: OpenSnapshot, key: string): SnapshotDisk {
  const disk = snapshot.disks.find((candidate) => candidate.key === key);
  if (!disk) throw new Error(`the snapshot has no disk ${key}`);
  return disk;
}

const bases = (snapshot: OpenSnapshot) => snapshot.disks.map((disk) => [disk.key, disk.changedSince]);
const close = (snapshotId: string) => domain.source.closeSnapshot(domain.vmId, snapshotId, signal);
const checkpoints = async () => (await virsh('checkpoint-list', domain.vmId, '--name')).trim();
const scratch = () => readdir(domain.scratchDir);

async function poll(condition: () => Promise<boolean>, whatFor: string): Promise<void> {
  const deadline = Date.now() + 30_000; // the machine may be busy with other guests
  while (!(await condition())) if (Date.now() > deadline) throw new Error(`waited 30 s in vain: ${whatFor}`);
}

afterEach(async () => {
  await domain.dispose();
});

describe('a VM that is shut off', () => {
  const extraXml = `
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/dev/null'/><target dev='vdd' bus='virtio'/><readonly/></disk>
    <disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/null'/><target dev='sda' bus='scsi'/></disk>
    <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>`;

  test('is listed and described, and says how to get it backed up', async () => {
    domain = await defineBiosDomain(disks, extraXml);
    const vm = await domain.source.describeVM(domain.name, signal);
    expect(await domain.source.listVMs(signal)).toContainEqual({
      name: domain.name,
      vmId: domain.vmId,
      state: 'shut off',
    });
    expect(vm.disks.map((d) => [d.key, d.target, d.sizeBytes, d.tracksChanges, d.skipReason])).toEqual([
      ['one', 'vda', 2 * MiB, true, null],
      ['two', 'vdb', 2 * MiB, true, null],
      ['vdc', 'vdc', MiB, false, null],
      ['vdd', 'vdd', 0, false, 'read-only'],
      ['sda', 'sda', 0, false, 'raw passthrough'],
      ['hda', 'hda', 0, false, 'CD-ROM'],
    ]);
    await expect(open({ one: null })).rejects.toMatchObject({
      code: 'VMNotRunning',
      message: expect.stringMatching(/'shut off.*virsh start/) as string,
    });
  });

  test('started paused, it is backed up like any other', async () => {
    domain = await defineBiosDomain(disks);
    await virsh('start', domain.vmId, '--paused');
    const snapshot = await open({ one: null, vdc: null }, randomUUID(), 'auto');
    expect(snapshot.consistency).toBe('crash');
    expect(snapshot.warnings).toEqual([expect.stringContaining('the VM is paused')]);
  });
});

describe('a VM that runs', () => {
  beforeEach(async () => {
    domain = await startBiosDomain(disks);
  });

  test('gives each disk what it can: changes, all of a disk without a base, all of a raw one', async () => {
    const base = await makeBase({ one: null });
    await domain.guestIO('one', 'write -P 0x11 1M 512');
    await domain.guestIO('vdc', 'write -P 0x33 0 512');
    const snapshotId = randomUUID();
    const snapshot = await open({ one: base, two: base, vdc: base }, snapshotId);
    expect(snapshot.disks).toMatchObject([
      { key: 'one', changedSince: base, changeId: changeIdOf(snapshotId), sizeBytes: 2 * MiB },
      { key: 'two', changedSince: null, changeId: changeIdOf(snapshotId), dirtyContext: null },
      { key: 'vdc', changedSince: null, changeId: null, sizeBytes: MiB },
    ]);
    expect(await domain.source.changedExtents(diskOf(snapshot, 'one'), signal)).toEqual([
      { offset: MiB, length: 65_536 },
    ]);
    const raw = await readExport(diskOf(snapshot, 'vdc').uri, join(domain.directory, 'read.raw'));
    expect([raw[0], raw[511], raw[512]]).toEqual([0x33, 0x33, 0]);
    expect(snapshot.vmConfig).toContain(`<uuid>${domain.vmId}</uuid>`);
    await close(snapshotId);
    expect(await scratch()).toEqual([]);
  });

  test('keeps its disks apart by serial when they change places', async () => {
    const base = await makeBase({ one: null, two: null });
    await virsh('destroy', domain.vmId);
    await domain.define([
      { key: 'two', target: 'vda', sizeBytes: 2 * MiB },
      { key: 'one', target: 'vdb', sizeBytes: 2 * MiB },
    ]);
    await virsh('start', domain.vmId);
    await domain.guestIO('one', 'write -P 0x11 1M 512');
    const snapshot = await open({ one: base, two: base });
    expect(bases(snapshot)).toEqual([
      ['one', base],
      ['two', base],
    ]);
    const changed = snapshot.disks.map((disk) => domain.source.changedExtents(disk, signal));
    expect(await Promise.all(changed)).toEqual([[{ offset: MiB, length: 65_536 }], []]);
    const read = await readExport(diskOf(snapshot, 'one').uri, join(domain.directory, 'read.raw'));
    expect(read[MiB]).toBe(0x11);
  });

  test('is not backed up in half: one unknown disk is DiskNotFound, and nothing is opened', async () => {
    await expect(open({ one: null, sdz: null })).rejects.toMatchObject({ code: 'DiskNotFound' });
    expect(await checkpoints()).toBe('');
  });

  test('without a guest agent: a warning with auto, FreezeFailed and nothing left with require', async () => {
    const snapshotId = randomUUID();
    await expect(open({ one: null }, snapshotId, 'require')).rejects.toMatchObject({ code: 'FreezeFailed' });
    expect(await scratch()).toEqual([]);
    expect(await checkpoints()).toBe('');
    const snapshot = await open({ one: null }, snapshotId, 'auto');
    expect(snapshot).toMatchObject({ consistency: 'crash', warnings: [expect.stringContaining('guest agent')] });
  });

  test('refuses scratch files where QEMU cannot get, and says which directory', async () => {
    const closed = join(domain.directory, 'closed');
    await mkdir(closed);
    await chmod(closed, 0o700);
    const source = createLibvirtSource({ uri: systemUri, scratchDir: join(closed, 'scratch') });
    const request = { snapshotId: randomUUID(), vmId: domain.vmId, quiesce: 'off' as const, disks: [] };
    await expect(source.openSnapshot(request, signal)).rejects.toMatchObject({
      code: 'InvalidConfiguration',
      message: expect.stringContaining(`chmod o+x ${closed}`) as string,
    });
  });

  test("leaves a stranger's backup alone, and names it", async () => {
    const socket = join(domain.directory, 'stranger.sock');
    await chmod(domain.directory, 0o777);
    const xml = join(domain.directory, 'stranger.xml');
    const disk = (name: string) =>
      `<disk name='${name}' backup='yes' type='file'><scratch file='${socket}.${name}'/></disk>`;
    await writeFile(
      xml,
      `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/><disks>${disk('vda')}<disk name='vdb' backup='no'/><disk name='vdc' backup='no'/></disks></domainbackup>`,
    );
    await virsh('backup-begin', domain.vmId, xml);
    const snapshotId = randomUUID();
    await expect(open({ one: null }, snapshotId)).rejects.toMatchObject({
      code: 'SourceBusy',
      message: expect.stringContaining(socket) as string,
    });
    await close(snapshotId);
    await runOrThrow('nbdinfo', [`nbd+unix:///vda?socket=${socket}`], { timeoutMs: 10_000 });
    await virsh('domjobabort', domain.vmId);
  });
});

describe('after a crash', () => {
  beforeEach(async () => {
    domain = await startBiosDomain(disks);
  });

  test('a checkpoint of a dead attempt is removed, and so is a job without its checkpoint', async () => {
    const lone = changeIdOf(randomUUID());
    await virsh('checkpoint-create-as', domain.vmId, lone, '--diskspec', 'vda', '--diskspec', 'vdc,checkpoint=no');
    await domain.source.dropChangeIds(domain.vmId, [lone], signal);
    expect(await checkpoints()).toBe('');

    const snapshotId = randomUUID();
    await open({ one: null, two: null }, snapshotId);
    await virsh('checkpoint-delete', domain.vmId, changeIdOf(snapshotId));
    await close(snapshotId);
    await domain.source.dropChangeIds(domain.vmId, [changeIdOf(snapshotId)], signal);
    expect(await scratch()).toEqual([]);
    await domain.guestIO('one', 'write -P 0x77 0 512');
    const next = await open({ one: null, two: null });
    const read = await readExport(diskOf(next, 'one').uri, join(domain.directory, 'read.raw'));
    expect(read[0]).toBe(0x77);
  });

  test('of QEMU, the bases are lost, their records can be dropped, and the next base is good', async () => {
    const base = await makeBase({ one: null, two: null });
    process.kill(await qemuPid(domain.vmId), 'SIGKILL');
    await poll(async () => (await virsh('domstate', domain.vmId)).startsWith('shut off'), 'the VM to be shut off');
    await virsh('start', domain.vmId);
    const snapshotId = randomUUID();
    expect(bases(await open({ one: base, two: base }, snapshotId))).toEqual([
      ['one', null],
      ['two', null],
    ]);
    await close(snapshotId);
    await domain.source.dropChangeIds(domain.vmId, [base], signal);
    expect(await checkpoints()).toBe(changeIdOf(snapshotId));
    expect(bases(await open({ one: changeIdOf(snapshotId) }))).toEqual([['one', changeIdOf(snapshotId)]]);
  });

  test('of QEMU in mid-backup, closing removes what is left', async () => {
    const snapshotId = randomUUID();
    await open({ one: null }, snapshotId);
    await virsh('destroy', domain.vmId);
    await close(snapshotId);
    expect(await scratch()).toEqual([]);
  });

  test('of libvirtd in mid-backup, the snapshot stays open, and closing removes the files that libvirtd forgot', async () => {
    const base = await makeBase({ one: null });
    const snapshotId = randomUUID();
    const snapshot = await open({ one: base, two: base }, snapshotId);
    const before = await readExport(diskOf(snapshot, 'one').uri, join(domain.directory, 'before.raw'));
    await restartLibvirtd();
    await domain.guestIO('one', 'write -P 0x66 0 512');
    const after = await readExport(diskOf(snapshot, 'one').uri, join(domain.directory, 'after.raw'));
    expect(after.equals(before)).toBe(true); // not toEqual: it would print them
    await expect(open({ one: base, two: base })).rejects.toMatchObject({
      code: 'SourceBusy',
      details: { snapshotId },
    });
    await close(snapshotId);
    expect(await scratch()).toEqual([]);
    expect(await virsh('domjobinfo', domain.vmId)).toMatch(/Job type: +None/);
  });

  test('a VM that is defined anew has lost its bases, and gets new ones', async () => {
    const base = await makeBase({ one: null });
    await virsh('destroy', domain.vmId);
    await virsh('undefine', domain.vmId, '--checkpoints-metadata');
    await domain.define(disks);
    await virsh('start', domain.vmId);
    const snapshotId = randomUUID();
    expect(bases(await open({ one: base }, snapshotId))).toEqual([['one', null]]);
    await close(snapshotId);
    expect(bases(await open({ one: changeIdOf(snapshotId) }))).toEqual([['one', changeIdOf(snapshotId)]]);
  });

  test('change ids of a shut-off VM are dropped from its images too, and other ones stay good', async () => {
    const old = await makeBase({ one: null, two: null });
    const kept = await makeBase({ one: old, two: old });
    await virsh('destroy', domain.vmId);
    await domain.source.dropChangeIds(domain.vmId, [old, changeIdOf(randomUUID())], signal);
    const { stdout } = await runOrThrow('qemu-img', ['info', domain.imageOf('one')], { timeoutMs: 10_000 });
    expect(stdout).toContain(kept);
    expect(stdout).not.toContain(old);
    expect(await checkpoints()).toBe(kept);
    await virsh('start', domain.vmId);
    expect(bases(await open({ one: kept, two: kept }))).toEqual([
      ['one', kept],
      ['two', kept],
    ]);
  });
});
