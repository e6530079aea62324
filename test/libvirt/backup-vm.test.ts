import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { compareWithWitness } from '../../demo/witness.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { runOrThrow } from '../../src/process/run.js';
import { holdClaims, pendingSteps } from '../support/hold-claims.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { defineBiosDomain, qemuPid, startBiosDomain, virsh, type BiosDisk, type BiosDomain } from './bios-domain.js';
import { backUpAndCompare, changeIdsOf, checkpointsOf, expectUntouchedGuest, plansOf } from './libvirt-backup.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const root: BiosDisk = { key: 'root-serial', target: 'vda', sizeBytes: 8 * MiB };
const data: BiosDisk = { key: 'vdb', target: 'vdb', sizeBytes: 4 * MiB + 512 };
const incrementals = { 'root-serial': 'incremental: parent_good', vdb: 'incremental: parent_good' };

let world: World;
let domains: BiosDomain[] = [];
beforeAll(async () => {
  world = await createWorld('libvirt-backup-vm', { hypervisor: 'libvirt' });
});
afterEach(async () => {
  try {
    await expectNothingLeftBehind(world);
    for (const domain of domains) await expectUntouchedGuest(world, domain);
  } finally {
    for (const domain of domains) await domain.dispose();
    domains = [];
  }
});
afterAll(() => world.close());

/** A VM that runs, with data on both disks. */
async function startVM(name?: string, disks: BiosDisk[] = [root, data], extraXml = ''): Promise<BiosDomain> {
  const domain = await startBiosDomain(disks, extraXml, name);
  domains.push(domain);
  for (const { key } of disks) await domain.guestIO(key, `write -P 0x11 0 2M`);
  return domain;
}

const backUp = (domain: BiosDomain, name = domain.name, disks = [root, data]) =>
  backUpAndCompare(world, {
    name,
    vmId: domain.vmId,
    disks: disks.map(({ key }) => ({ key, image: domain.imageOf(key) })),
  });

const restart = async (domain: BiosDomain) => {
  await virsh('destroy', domain.vmId); // QEMU stores its bitmaps
  await virsh('start', domain.vmId);
};

const folderOf = (result: BackupVMResult) => result.disks[0]?.path.split('/')[0] ?? '';

async function filesIn(folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(join(world.repository.path, folder), { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) continue;
    const { size, mtimeMs } = await stat(join(entry.parentPath, entry.name));
    found.push(`${entry.parentPath}/${entry.name} ${size} ${mtimeMs}`);
  }
  return found.sort();
}

async function failureOf(handle: WorkflowHandle): Promise<{ type: string; message: string }> {
  return handle.result().then(
    () => expect.fail('expected the backup to fail, found it complete'),
    (error: unknown) => (error as { cause: { type: string; message: string } }).cause,
  );
}

/** Begins a backup whose copies hang, since QEMU, which they read from, stands still. Its process is the caller's to wake or kill. */
async function startHeldBackup({ name, vmId }: BiosDomain): Promise<{ handle: WorkflowHandle; pid: number }> {
  const pid = await qemuPid(vmId);
  const claims = await holdClaims(world);
  const handle = await world.start({ vm: name });
  await until('the exports', async () => (await pendingSteps(handle, 'startExport')) > 0);
  process.kill(pid, 'SIGSTOP');
  await claims.release();
  await until('the copies to hang', async () => (await pendingSteps(handle, 'transferDisk')) > 0);
  return { handle, pid };
}

describe('BackupVM under libvirt', () => {
  test('takes a full, then what changed, then nothing, and each restores byte for byte', async () => {
    const vm = await startVM();
    await vm.guestIO('vdb', 'write -P 0x22 4M 512');
    const full = await backUp(vm);
    expect(plansOf(full)).toEqual({ 'root-serial': 'full: first_backup', vdb: 'full: first_backup' });
    expect(full.consistency).toBe('crash');

    await vm.guestIO('root-serial', `write -P 0x33 ${5 * MiB + 512} 100k`);
    await vm.guestIO('root-serial', 'write -z -u 1M 128k');
    await vm.guestIO('vdb', 'write -P 0x44 4M 512');
    const incremental = await backUp(vm);
    expect(plansOf(incremental)).toEqual(incrementals);
    expect(await checkpointsOf(vm)).toEqual(await changeIdsOf(world, incremental.jobId));

    const nothing = await backUp(vm);
    expect(nothing.disks.map(({ type, changedBytes, writtenBytes }) => ({ type, changedBytes, writtenBytes }))).toEqual(
      [
        { type: 'incremental', changedBytes: 0, writtenBytes: 0 },
        { type: 'incremental', changedBytes: 0, writtenBytes: 0 },
      ],
    );
  });

  test("keeps the VM's definition with the restore point: in the manifest, and in the job's row", async () => {
    const vm = await startVM();
    const result = await backUp(vm);
    const { rows } = await world.database.pool.query<{ vm_config: string }>(
      `select vm_config from backup_jobs where id = $1`,
      [result.jobId],
    );
    expect(rows[0]?.vm_config).toContain(`<uuid>${vm.vmId}</uuid>`);
    const folder = join(world.repository.path, folderOf(result));
    const manifest = (await readdir(folder)).find((name) => name.endsWith('.json')) ?? 'none';
    const { vmConfig } = JSON.parse(await readFile(join(folder, manifest), 'utf8')) as { vmConfig: string };
    expect(vmConfig).toBe(rows[0]?.vm_config);
    const file = join(world.directory, 'again.xml');
    await writeFile(file, vmConfig);
    await virsh('define', file); // what was kept is whole: libvirt takes it back
  });

  test('a VM that is made anew under the same name gets a full, in a folder of its own', async () => {
    const first = await startVM();
    const old = await backUp(first);
    const oldFiles = await filesIn(folderOf(old));
    await virsh('destroy', first.vmId);
    await virsh('undefine', first.vmId, '--checkpoints-metadata');
    domains = [];
    try {
      const second = await startVM(first.name);
      const result = await backUp(second);
      expect(plansOf(result)).toEqual({ 'root-serial': 'full: vm_recreated', vdb: 'full: vm_recreated' });
      expect(folderOf(result)).not.toBe(folderOf(old));
      await second.guestIO('vdb', 'write -P 0x55 1M 64k');
      expect(plansOf(await backUp(second))).toEqual(incrementals);
      expect(await filesIn(folderOf(old))).toEqual(oldFiles);
    } finally {
      await first.dispose();
    }
  });

  test('checkpoints of a run that was cancelled in the middle of a copy go, and the next is incremental', async () => {
    const vm = await startVM();
    await backUp(vm);
    const before = await checkpointsOf(vm);
    await vm.guestIO('root-serial', 'write -P 0x66 4M 1M');
    const { handle, pid } = await startHeldBackup(vm);
    try {
      expect(await readdir(world.config.scratchDir)).toHaveLength(1);
      await handle.cancel();
      await until('the copies to be stopped', async () => (await pendingSteps(handle, 'transferDisk')) === 0);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    expect(await checkpointsOf(vm)).toEqual(before);
    await expectNothingLeftBehind(world);
    expect(plansOf(await backUp(vm))).toEqual(incrementals);
  });

  test('a VM that goes in the middle of a copy fails its backup at once, says why, and loses nothing but its checkpoints', async () => {
    const vm = await startVM();
    const before = await backUp(vm);
    const { handle, pid } = await startHeldBackup(vm);
    process.kill(pid, 'SIGKILL');
    const failure = await failureOf(handle);
    expect(failure.type).toBe('SnapshotLost');
    expect(failure.message).toMatch(/the VM was stopped or crashed/);
    await expectNothingLeftBehind(world);
    await until('the VM to be shut off', async () => (await virsh('domstate', vm.vmId)).startsWith('shut off'));
    expect(await checkpointsOf(vm)).toEqual(await changeIdsOf(world, before.jobId));
    await virsh('start', vm.vmId);
    expect(plansOf(await backUp(vm))).toEqual({ 'root-serial': 'full: change_id_lost', vdb: 'full: change_id_lost' });
  });

  test('a VM that is shut off is refused by name, with what to do, and nothing is made', async () => {
    const off = await defineBiosDomain([root]);
    try {
      const failure = await failureOf(await world.start({ vm: off.name }));
      expect(failure.type).toBe('VMNotRunning');
      expect(failure.message).toContain(off.name);
      expect(failure.message).toMatch(/shut off; start it/);
      expect(await checkpointsOf(off)).toEqual([]);
      const { rows } = await world.database.pool.query(
        `select 1 from backup_disks d join vm_backup_contexts c on c.id = d.context_id where c.vm_id = $1`,
        [off.vmId],
      );
      expect(rows).toEqual([]);
    } finally {
      await off.dispose();
    }
  });

  test('a CD-ROM and a read-only disk are left out, a raw disk is copied whole each time', async () => {
    const raw: BiosDisk = { key: 'vdc', target: 'vdc', sizeBytes: 3 * MiB, format: 'raw' };
    const readOnly = join(world.directory, 'read-only.img');
    await runOrThrow('qemu-img', ['create', '-q', '-f', 'raw', readOnly, '1M'], { timeoutMs: 10_000 });
    const vm = await startVM(
      undefined,
      [root, data, raw],
      `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${readOnly}'/><target dev='vdd' bus='virtio'/><readonly/></disk>
       <disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>`,
    );
    expect(plansOf(await backUp(vm))).toEqual({
      'root-serial': 'full: first_backup',
      vdb: 'full: first_backup',
      vdc: 'full: first_backup',
    });
    await vm.guestIO('vdc', 'write -P 0x77 1M 4k');
    const second = await backUp(vm);
    expect(plansOf(second)).toEqual({ ...incrementals, vdc: 'full: no_change_tracking' });
    const { path } = second.disks.find(({ key }) => key === 'vdc') ?? { path: 'none' };
    // A raw image is what the guest sees, so it is its own witness.
    await compareWithWitness(join(world.repository.path, path), vm.imageOf('vdc'), join(vm.directory, 'vdc.restored'));
  });

  test('disks that change their order and their places keep their chains, by their serials', async () => {
    const [one, two] = [
      { key: 'serial-one', target: 'vda', sizeBytes: 4 * MiB },
      { key: 'serial-two', target: 'vdb', sizeBytes: 4 * MiB },
    ] as const;
    const vm = await startVM(undefined, [one, two]);
    await vm.guestIO('serial-two', 'write -P 0x22 3M 64k');
    await backUp(vm, vm.name, [one, two]);
    await vm.define([
      { ...two, target: 'vda' },
      { ...one, target: 'vdb' },
    ]);
    await restart(vm);
    await vm.guestIO('serial-one', 'write -P 0x88 2M 64k');
    const result = await backUp(vm, vm.name, [one, two]);
    expect(plansOf(result)).toEqual({
      'serial-one': 'incremental: parent_good',
      'serial-two': 'incremental: parent_good',
    });
    expect(result.disks.find(({ key }) => key === 'serial-two')?.changedBytes).toBe(0);
  });

  test('after QEMU was killed, a full because what changed is lost, and then incrementals again', async () => {
    const vm = await startVM();
    await backUp(vm);
    process.kill(await qemuPid(vm.vmId), 'SIGKILL');
    await until('the VM to be shut off', async () => (await virsh('domstate', vm.vmId)).startsWith('shut off'));
    await virsh('start', vm.vmId);
    await vm.guestIO('root-serial', 'write -P 0x99 3M 64k');
    expect(plansOf(await backUp(vm))).toEqual({ 'root-serial': 'full: change_id_lost', vdb: 'full: change_id_lost' });
    await vm.guestIO('vdb', 'write -P 0xaa 3M 64k');
    expect(plansOf(await backUp(vm))).toEqual(incrementals);
  });

  test('a VM that is renamed keeps its chain and its folder', async () => {
    const vm = await startVM();
    const before = await backUp(vm);
    const name = `${vm.name} renamed`;
    await virsh('destroy', vm.vmId); // libvirt renames no VM that runs
    await virsh('domrename', vm.vmId, name);
    await virsh('start', vm.vmId);
    await vm.guestIO('root-serial', 'write -P 0xbb 3M 64k');
    const after = await backUp(vm, name);
    expect(plansOf(after)).toEqual(incrementals);
    expect(folderOf(after)).toBe(folderOf(before));
  });
});

describe('a VM whose name is', () => {
  test.each([
    ['spaces and quotes', `web 01 "it's" \`x\``],
    ['non-ASCII', 'größe-東京-🎈'],
    ['markup', `a<b>&c;'d'`],
    ['a path', '..%2F..'],
    ['dashes, like an option', '--all'],
    ['200 characters long', 'n'.repeat(200)],
  ])('%s, is backed up inside the repository', async (_what, name) => {
    const vm = await startVM(name, [root]);
    const full = await backUp(vm, name, [root]);
    expect(full.disks[0]?.path).toMatch(/^[A-Za-z0-9%._~/-]+$/);
    expect(full.disks[0]?.path.split('/')).not.toContain('..');
    await vm.guestIO('root-serial', 'write -P 0xcc 3M 64k');
    expect(plansOf(await backUp(vm, name, [root]))).toEqual({ 'root-serial': 'incremental: parent_good' });
  });
});
