import { randomUUID } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { attachToGuest, kvmUsable, prepareGuestImage, startGuest, type Guest } from '../../demo/guest.js';
import { checksumsInGuest } from '../../demo/witness.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { expectNoRestoreLeft, refusalOf, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { virsh } from './bios-domain.js';
import { plansOf } from './libvirt-backup.js';

const MiB = 1024 * 1024;
const targets = ['vda', 'vdb'];

let world: World;
let guest: Guest;
let vmId: string;
/** The two points, and what the guest said that its files were. */
const points: { result: BackupVMResult; files: string[] }[] = [];

/** `vda ./file sha256` of every file. */
async function filesIn(vm: Guest): Promise<string[]> {
  const found: string[] = [];
  for (const target of targets) {
    for (const { path, checksum } of await checksumsInGuest(vm, target)) found.push(`${target} ${path} ${checksum}`);
  }
  return found.sort();
}

async function backUp(commands: string): Promise<void> {
  await guest.run(`${commands}
    for disk in vda vdb; do cd /mnt/$disk && find . -type f ! -name SHA256SUMS -exec sha256sum {} + >/tmp/sums && cp /tmp/sums SHA256SUMS; done; sync`);
  const files = await filesIn(guest);
  points.push({ files, result: await world.backUp({ vm: guest.name, quiesce: 'require' }) });
}

beforeAll(async () => {
  world = await createWorld('libvirt-restore-guest', { hypervisor: 'libvirt' });
  const image = await prepareGuestImage(join(homedir(), '.cache', 'backupvm', 'guest'), () => undefined);
  guest = await startGuest({
    image,
    name: `backupvm-restored-${randomUUID().slice(0, 8)}`,
    directory: join(world.directory, 'guest'),
    disks: [
      { target: 'vda', sizeBytes: 64 * MiB, serial: 'guest-root' },
      { target: 'vdb', sizeBytes: 48 * MiB },
    ],
    kvm: await kvmUsable(),
  });
  await guest.waitUntilReady();
  vmId = (await virsh('domuuid', guest.name)).trim();
  await backUp(`cd /mnt/vda && dd if=/dev/urandom of=database bs=1M count=6 && seq 20000 >notes
    cd /mnt/vdb && dd if=/dev/urandom of=pictures bs=1M count=4 && dd if=/dev/urandom of=archive bs=1M count=2`);
  await backUp(`cd /mnt/vda && dd if=/dev/urandom of=database bs=64k count=10 seek=20 conv=notrunc && seq 30000 >notes
    cd /mnt/vdb && rm archive && dd if=/dev/zero of=pictures bs=1M count=1 seek=1 conv=notrunc`);
});
afterAll(async () => {
  await guest?.destroy();
  await world?.close();
});

test('a restore point becomes a new VM beside the old one, boots, and its files check out in the guest', async () => {
  const directory = await targetDirectory(world, 'copy');
  const name = `${guest.name}-copy`;
  const restored = await restoreVM(world, { vm: guest.name, target: { kind: 'vm', name, directory, start: true } });
  const log = join(world.directory, 'guest', `${name}.console.log`);
  const copy = attachToGuest(name, log);
  try {
    expect(restored.vm?.name).toBe(name);
    expect((await virsh('domuuid', name)).trim()).toBe(restored.vm?.id);
    expect(restored.vm?.id).not.toBe(vmId);
    await copy.waitUntilReady();
    const said = await readFile(log, 'utf8');
    for (const target of targets) expect(said).toContain(`GUEST-FILES-GOOD /mnt/${target}/SHA256SUMS`);
    expect(said).not.toContain('GUEST-FILES-BAD');
    expect(await filesIn(copy)).toEqual(points[1]?.files);
    expect(await filesIn(guest)).toEqual(points[1]?.files); // the old one never noticed
  } finally {
    await copy.destroy();
  }
  await expectNoRestoreLeft(world, directory, [`${name}-vda.qcow2`, `${name}-vdb.qcow2`]);
});

test('a VM that runs is not touched: neither its disks, nor its name', async () => {
  const directory = await targetDirectory(world, 'refused');
  const target = { kind: 'vm' as const, name: guest.name, directory };
  for (const input of [
    { vm: guest.name, target: { kind: 'in-place' as const } },
    { vm: guest.name, target, overwrite: true },
  ]) {
    expect(await refusalOf(world, input)).toMatchObject({ type: 'VMRunning' });
  }
  await expectNoRestoreLeft(world, directory);
  expect((await virsh('domstate', vmId)).trim()).toBe('running');
});

test('restored in place, the VM boots with the files of then; the next backup is a full, and the one after it an incremental', async () => {
  await guest.run('echo after the last backup >/mnt/vda/later && sync');
  await virsh('destroy', vmId);
  const image = join(world.directory, 'guest', `${guest.name}.vda.qcow2`);
  const before = await stat(image);
  const { disks } = await restoreVM(world, { point: points[0]?.result.jobId, target: { kind: 'in-place' } });
  expect(disks.map(({ path }) => path)).toEqual([image, image.replace('.vda.', '.vdb.')]);
  const after = await stat(image);
  expect(after.ino).not.toBe(before.ino);
  expect([after.uid, after.gid, after.mode]).toEqual([before.uid, before.gid, before.mode]);

  await virsh('start', vmId);
  await guest.waitUntilReady();
  expect(await filesIn(guest)).toEqual(points[0]?.files);
  await backUp('echo again >/mnt/vda/again');
  expect(plansOf(points[2]?.result ?? expect.fail())).toEqual({
    'guest-root': 'full: restored_in_place',
    vdb: 'full: restored_in_place',
  });
  await backUp('echo and again >/mnt/vdb/again');
  expect(plansOf(points[3]?.result ?? expect.fail())).toEqual({
    'guest-root': 'incremental: parent_good',
    vdb: 'incremental: parent_good',
  });
  await expectNothingLeftBehind(world);
});
