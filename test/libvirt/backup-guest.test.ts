import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { kvmUsable, prepareGuestImage, startGuest, type Guest } from '../../demo/guest.js';
import { checksumInImage, checksumsInGuest } from '../../demo/witness.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { runOrThrow } from '../../src/process/run.js';
import { restore } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { createWorld, type World } from '../support/world.js';
import { virsh } from './bios-domain.js';
import { backUpAndCompare, expectUntouchedGuest, plansOf } from './libvirt-backup.js';

const MiB = 1024 * 1024;
const targets = { 'guest-root': 'vda', vdb: 'vdb' } as Record<string, string>;

let world: World;
let guest: Guest;
let vmId: string;

beforeAll(async () => {
  world = await createWorld('libvirt-backup-guest', { hypervisor: 'libvirt' });
  const image = await prepareGuestImage(join(homedir(), '.cache', 'backupvm', 'guest'), () => undefined);
  guest = await startGuest({
    image,
    name: `backupvm-backed-up-${randomUUID().slice(0, 8)}`,
    directory: join(world.directory, 'guest'),
    disks: [
      { target: 'vda', sizeBytes: 96 * MiB, serial: 'guest-root' },
      { target: 'vdb', sizeBytes: 64 * MiB },
    ],
    kvm: await kvmUsable(),
  });
  await guest.waitUntilReady();
  vmId = (await virsh('domuuid', guest.name)).trim();
});
afterEach(async () => {
  await expectNothingLeftBehind(world);
  await expectUntouchedGuest(world, { vmId });
  expect(JSON.parse(await virsh('qemu-agent-command', vmId, '{"execute":"guest-fsfreeze-status"}'))).toEqual({
    return: 'thawed',
  });
  await guest.run('touch /mnt/vda/alive /mnt/vdb/alive && sync');
});
afterAll(async () => {
  await guest?.destroy();
  await world?.close();
});

type Checksums = Map<string, { path: string; checksum: string }[]>;

/** What the guest says that its files are, per disk key. Nothing writes in it but these tests. */
async function checksums(): Promise<Checksums> {
  const found: Checksums = new Map();
  for (const [key, target] of Object.entries(targets)) found.set(key, await checksumsInGuest(guest, target));
  return found;
}

/** Each disk of a restore point holds exactly these files. */
async function expectFiles(point: BackupVMResult, expected: Checksums): Promise<void> {
  for (const { key, path } of point.disks) {
    const image = join(world.directory, `${key}.restored`);
    await restore(join(world.repository.path, path), image);
    const files = expected.get(key) ?? [];
    expect(files.length).toBeGreaterThan(0);
    for (const file of files) {
      const found = await checksumInImage(image, file.path, join(world.directory, 'file'));
      expect(found, `${file.path} on disk ${key}`).toBe(file.checksum);
    }
    await rm(image);
  }
}

test('a full of a frozen guest holds its files, and the guest goes on', async () => {
  await guest.run(`
    cd /mnt/vda && dd if=/dev/urandom of=database bs=1M count=12 && dd if=/dev/urandom of=archive bs=1M count=8 && seq 50000 >notes
    cd /mnt/vdb && mkdir deep && dd if=/dev/urandom of=deep/pictures bs=1M count=10 && sync`);
  const before = await checksums();
  const full = await world.backUp({ vm: guest.name, quiesce: 'require' });
  expect(full.consistency).toBe('filesystem');
  expect(plansOf(full)).toEqual({ 'guest-root': 'full: first_backup', vdb: 'full: first_backup' });
  await guest.run('echo later >/mnt/vda/notes && sync');
  await expectFiles(full, before);
});

test('an incremental of a frozen guest holds what it overwrote, added and zeroed, and not what it deleted', async () => {
  // The file systems are mounted with `discard`, so a deletion is a trim.
  await guest.run(`
    cd /mnt/vda && dd if=/dev/urandom of=database bs=64k count=20 seek=50 conv=notrunc && rm archive && seq 70000 >notes
    cd /mnt/vdb && dd if=/dev/zero of=deep/pictures bs=1M count=4 seek=2 conv=notrunc && dd if=/dev/urandom of=new bs=1M count=3 && sync`);
  const before = await checksums();
  const incremental = await world.backUp({ vm: guest.name, quiesce: 'require' });
  expect(incremental.consistency).toBe('filesystem');
  expect(plansOf(incremental)).toEqual({ 'guest-root': 'incremental: parent_good', vdb: 'incremental: parent_good' });
  await expectFiles(incremental, before);

  const path = incremental.disks.find(({ key }) => key === 'guest-root')?.path ?? 'none';
  const image = join(world.directory, 'root.restored');
  await restore(join(world.repository.path, path), image);
  const { stderr } = await runOrThrow('debugfs', ['-R', 'stat /archive', image], { timeoutMs: 30_000 });
  expect(stderr).toContain('File not found');
  await rm(image);
});

test('an incremental of a guest in the middle of its writes is the whole disk of that moment', async () => {
  await guest.run(`
    (while [ ! -e /tmp/enough ]; do dd if=/dev/urandom of=/mnt/vdb/busy bs=64k count=8 conv=notrunc,fsync; usleep 50000; done) >/dev/null 2>&1 &
    cd /mnt/vda && dd if=/dev/urandom of=database bs=64k count=10 seek=9 conv=notrunc && fstrim /mnt/vda && sync`);
  try {
    const images = Object.entries(targets).map(([key, target]) => ({
      key,
      image: join(world.directory, 'guest', `${guest.name}.${target}.qcow2`),
    }));
    const point = await backUpAndCompare(world, { name: guest.name, vmId, disks: images });
    expect(point.consistency).toBe('crash'); // the witness holds the guest, so that its agent cannot answer
    expect(plansOf(point)).toEqual({ 'guest-root': 'incremental: parent_good', vdb: 'incremental: parent_good' });
  } finally {
    await guest.run('touch /tmp/enough');
  }
});
