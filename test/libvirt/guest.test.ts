import { randomUUID } from 'node:crypto';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  kvmUsable,
  prepareGuestImage,
  startGuest,
  type Guest,
  type GuestDisk,
  type GuestImage,
} from '../../demo/guest.js';
import { systemUri } from '../../demo/libvirtd.js';
import { run, runOrThrow } from '../../src/process/run.js';
import { createLibvirtSource } from '../../src/sources/libvirt/libvirt-source.js';
import { changeIdOf, type Source } from '../../src/sources/source.js';

const signal = new AbortController().signal;
const MiB = 1024 * 1024;
let directory: string;
let image: GuestImage;
let guest: Guest;
let source: Source;
let vmId: string;
let mounted: { exitCode: number; stderr: string };

async function start(name: string, disks: GuestDisk[]): Promise<Guest> {
  const unique = `backupvm-${name}-${randomUUID().slice(0, 8)}`;
  const started = await startGuest({ image, name: unique, directory, disks, kvm: await kvmUsable() });
  try {
    await started.waitUntilReady();
  } catch (error) {
    await started.destroy();
    throw error;
  }
  return started;
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-guest-'));
  await chmod(directory, 0o755);
  image = await prepareGuestImage(join(homedir(), '.cache', 'backupvm', 'guest'), () => undefined);
  // Mounted before the VM starts: libvirt gives each QEMU its own view of the mounts that it finds then.
  const scratchDir = join(directory, 'scratch');
  await mkdir(scratchDir);
  mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=8m,mode=711', 'tmpfs', scratchDir], { timeoutMs: 10_000 });
  guest = await start('first', [
    { target: 'vda', sizeBytes: 64 * MiB, serial: 'guest-data' },
    { target: 'vdb', sizeBytes: 32 * MiB },
  ]);
  source = createLibvirtSource({ uri: systemUri, scratchDir });
  vmId = (await source.describeVM(guest.name, signal)).vmId;
});

afterAll(async () => {
  await guest?.destroy();
  if (mounted?.exitCode === 0) await runOrThrow('umount', [join(directory, 'scratch')], { timeoutMs: 10_000 });
  await rm(directory, { recursive: true, force: true });
});

test('the guest writes, trims and zeroes on two real file systems, and tells a failed command', async () => {
  await guest.run('dd if=/dev/urandom of=/mnt/vda/a bs=64k count=40 && cp /mnt/vda/a /mnt/vdb/a && sync');
  const [a, b] = await Promise.all(['vda', 'vdb'].map((disk) => guest.run(`sha256sum < /mnt/${disk}/a`)));
  expect(a).toBe(b);
  await guest.run(
    'rm /mnt/vdb/a && sync && fstrim /mnt/vdb && dd if=/dev/zero of=/mnt/vda/zero bs=64k count=4 conv=fsync',
  );
  await expect(guest.run('echo broken >&2; exit 3')).rejects.toThrow('failed with exit code 3: broken');
});

test('a guest that stands still because the scratch space is full goes on when the snapshot is closed', async (context) => {
  if (mounted.exitCode !== 0) context.skip(`mounting a small scratch space is not allowed here: ${mounted.stderr}`);
  const write = 'dd if=/dev/urandom of=/mnt/vda/big bs=1M count=20 conv=notrunc,fsync';
  await guest.run(write);
  const snapshotId = randomUUID();
  const disks = [{ key: 'guest-data', baseChangeId: null }];
  await source.openSnapshot({ snapshotId, vmId, quiesce: 'off', disks }, signal);
  // It may stand still before its agent has said that this has begun.
  await guest.run(`(${write}; echo $? > /tmp/big) >/dev/null 2>&1 &`).catch(() => undefined);
  const state = async () =>
    (
      await runOrThrow('virsh', ['-q', '-c', systemUri, 'domstate', vmId, '--reason'], { timeoutMs: 60_000 })
    ).stdout.trim();
  await expect.poll(state, { timeout: 60_000 }).toBe('paused (I/O error)');
  await source.closeSnapshot(vmId, snapshotId, signal);
  expect(await state()).toMatch(/^running/);
  await expect.poll(() => guest.run('cat /tmp/big').catch(() => ''), { timeout: 60_000 }).toBe('0\n');
  await source.dropChangeIds(vmId, [changeIdOf(snapshotId)], signal);
});

test('a guest that a dead attempt left frozen is thawed when its snapshot is closed', async () => {
  const snapshotId = randomUUID();
  const attempt = join(directory, 'scratch', snapshotId);
  await mkdir(attempt);
  await writeFile(join(attempt, 'frozen'), '');
  await runOrThrow('virsh', ['-q', '-c', systemUri, 'domfsfreeze', vmId], { timeoutMs: 60_000 });
  await source.closeSnapshot(vmId, snapshotId, signal);
  await guest.run('touch /mnt/vda/written && sync');
});

test('a snapshot of a frozen guest boots as it was, and the guest writes on meanwhile', async () => {
  const text = randomUUID();
  await guest.run(`echo ${text} > /mnt/vda/text && dd if=/dev/urandom of=/mnt/vdb/random bs=64k count=8`); // the freeze syncs
  const checksum = await guest.run('sha256sum < /mnt/vdb/random');
  const snapshotId = randomUUID();
  const disks = [
    { key: 'guest-data', baseChangeId: null },
    { key: 'vdb', baseChangeId: null },
  ];
  const snapshot = await source.openSnapshot({ snapshotId, vmId, quiesce: 'require', disks }, signal);
  try {
    expect(snapshot).toMatchObject({ consistency: 'filesystem', warnings: [] });
    await guest.run('rm /mnt/vdb/random && echo later > /mnt/vda/text && sync');
    for (const disk of snapshot.disks) {
      const args = ['convert', '-f', 'raw', '-O', 'qcow2', disk.uri, join(directory, `${disk.key}.restored.qcow2`)];
      await runOrThrow('qemu-img', args, { timeoutMs: 60_000 });
    }
  } finally {
    await source.closeSnapshot(vmId, snapshotId, signal);
    await source.dropChangeIds(vmId, [changeIdOf(snapshotId)], signal);
  }
  expect(await guest.run('cat /mnt/vda/text')).toBe('later\n');
  await guest.destroy();

  const restored = await start('restored', [
    { target: 'vda', sizeBytes: 64 * MiB, image: join(directory, 'guest-data.restored.qcow2') },
    { target: 'vdb', sizeBytes: 32 * MiB, image: join(directory, 'vdb.restored.qcow2') },
  ]);
  try {
    expect(await restored.run('cat /mnt/vda/text')).toBe(`${text}\n`);
    expect(await restored.run('sha256sum < /mnt/vdb/random')).toBe(checksum);
  } finally {
    await restored.destroy();
  }
});
