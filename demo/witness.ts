import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../src/domain/errors.js';
import { run, runOrThrow } from '../src/process/run.js';
import type { Guest } from './guest.js';
import { systemUri } from './libvirtd.js';

// The witness: what the guest's disks held, found out without anything of backupvm's.

const virsh = (...args: string[]) => run('virsh', ['-q', '-c', systemUri, ...args], { timeoutMs: 60_000 });
const copyTimeoutMs = 300_000; // a few hundred MiB, on a machine that may be busy

/**
 * Takes a raw image of each disk at one moment, and lets `backup` take its snapshot of that very moment: the guest stands still
 * from the first until the second is open, and runs again while the backup copies.
 */
export async function witnessed(
  guest: Pick<Guest, 'name'>,
  disks: readonly { target: string; image: string }[],
  directory: string,
  backup: () => Promise<void>,
): Promise<void> {
  await virshOrThrow('suspend', guest.name);
  let running: Promise<void> | undefined;
  try {
    for (const { target, image } of disks) {
      const args = ['convert', '-U', '-f', 'qcow2', '-O', 'raw', image, join(directory, `${target}.raw`)];
      await runOrThrow('qemu-img', args, { timeoutMs: copyTimeoutMs });
    }
    running = backup();
    await Promise.race([running, untilSnapshotIsOpen(guest.name)]);
  } finally {
    await virshOrThrow('resume', guest.name);
  }
  await running;
}

async function untilSnapshotIsOpen(vm: string): Promise<void> {
  while ((await virsh('backup-dumpxml', vm)).exitCode !== 0) await wait(50);
}

async function virshOrThrow(...args: string[]): Promise<void> {
  const { exitCode, stderr } = await virsh(...args);
  if (exitCode !== 0) throw new BackupError('ToolFailed', `virsh ${args.join(' ')} failed: ${stderr.trim()}`);
}

/** Turns a file of a restore point into a raw image by plain `qemu-img convert`, and compares it with the witness, whole. */
export async function compareWithWitness(file: string, witness: string, restored: string): Promise<void> {
  await runOrThrow('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', file, restored], { timeoutMs: copyTimeoutMs });
  const { exitCode, stdout } = await run('cmp', [witness, restored], { timeoutMs: copyTimeoutMs });
  if (exitCode !== 0) throw new BackupError('CopyIncomplete', `${file} is not what the disk held: ${stdout.trim()}`);
}

/** The SHA-256 of a file inside a raw image with an ext file system, read without mounting it. */
export async function checksumInImage(image: string, path: string, scratch: string): Promise<string> {
  await runOrThrow('debugfs', ['-R', `dump ${path} ${scratch}`, image], { timeoutMs: copyTimeoutMs });
  const { stdout } = await runOrThrow('openssl', ['dgst', '-sha256', '-r', scratch], { timeoutMs: copyTimeoutMs });
  return stdout.slice(0, 64);
}

/** The SHA-256 of each file below these folders, as the guest itself says. Paths as seen from the file system's root. */
export async function checksumsInGuest(guest: Guest, target: string): Promise<{ path: string; checksum: string }[]> {
  const output = await guest.run(`cd /mnt/${target} && find . -type f ! -name ticks -exec sha256sum {} +`);
  return output
    .trim()
    .split('\n')
    .map((line) => ({ checksum: line.slice(0, 64), path: line.slice(67) }));
}
