import { constants } from 'node:fs';
import { access, copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { z } from 'zod';
import { BackupError } from '../src/domain/errors.js';
import { run, runOrThrow } from '../src/process/run.js';
import type { GuestImage } from './guest/image.js';
import { guestDomainXml } from './guest/domain-xml.js';
import { systemUri } from './libvirtd.js';

export { prepareGuestImage, type GuestImage } from './guest/image.js';

export interface GuestDisk {
  /** `vda`, `vdb`, … in this order: the guest names its disks itself, and mounts each at /mnt/<target>. */
  target: string;
  sizeBytes: number;
  serial?: string;
  /** A QCOW2 image to boot with, such as a restored one; the guest writes to it. Without it, a new empty one is made. */
  image?: string;
}

export interface GuestOptions {
  image: GuestImage;
  name: string;
  /** Made when it is not there; QEMU's user must be able to pass it. */
  directory: string;
  disks: GuestDisk[];
  kvm: boolean;
}

/** A Linux that runs under libvirt. */
export interface Guest {
  name: string;
  /** Runs a shell command in the guest as root, and returns what it printed. @throws BackupError ToolFailed on another exit code than 0 */
  run(command: string): Promise<string>;
  /** Returns when the disks are mounted and the guest agent answers. */
  waitUntilReady(): Promise<void>;
  /** Stops and undefines the VM, and deletes the files that startGuest made. May run twice. */
  destroy(): Promise<void>;
}

// 60 s: twice what libvirt waits for its state change lock.
const virsh = (...args: string[]) => runOrThrow('virsh', ['-q', '-c', systemUri, ...args], { timeoutMs: 60_000 });

/** Whether VMs can run on the processor itself here: /dev/kvm alone does not say so, it is there in VMs that cannot nest. */
export async function kvmUsable(): Promise<boolean> {
  const isOpen = await access('/dev/kvm', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  return isOpen && /^flags\s*:.*\b(vmx|svm)\b/m.test(await readFile('/proc/cpuinfo', 'utf8'));
}

/** Defines and starts a guest; a VM of that name that an earlier run left is removed first. */
export async function startGuest({ image, name, directory, disks, kvm }: GuestOptions): Promise<Guest> {
  await removeVM(name);
  await mkdir(directory, { recursive: true });
  const made: string[] = [];
  const place = (file: string) => {
    made.push(path.join(directory, file));
    return path.join(directory, file);
  };
  // libvirt gives the files that a VM uses to QEMU's user, so the cached ones are not lent out.
  const kernel = place(`${name}.vmlinuz`);
  const initrd = place(`${name}.initrd`);
  const consoleLog = place(`${name}.console.log`);
  await copyFile(image.kernel, kernel, constants.COPYFILE_FICLONE);
  await copyFile(image.initrd, initrd, constants.COPYFILE_FICLONE);
  const placed: { target: string; serial?: string; file: string }[] = [];
  for (const disk of disks) {
    const file = disk.image ?? place(`${name}.${disk.target}.qcow2`);
    if (disk.image === undefined) {
      await runOrThrow('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(disk.sizeBytes)], {
        timeoutMs: 30_000,
      });
    }
    placed.push({ target: disk.target, serial: disk.serial, file });
  }
  const xml = place(`${name}.xml`);
  await writeFile(xml, guestDomainXml({ name, kernel, initrd, consoleLog, disks: placed, kvm }));
  const destroy = async () => {
    await removeVM(name);
    for (const file of made) await rm(file, { force: true });
  };
  try {
    await virsh('define', xml);
    await virsh('start', name);
  } catch (error) {
    await destroy();
    throw error;
  }
  return { ...attachToGuest(name, consoleLog), destroy };
}

/** A guest that somebody else has defined, such as a restore; its disks and its console's log stay when it is destroyed. */
export function attachToGuest(name: string, consoleLog: string): Guest {
  return {
    name,
    run: (command) => runInGuest(name, command),
    waitUntilReady: () => untilReady(name, consoleLog),
    destroy: () => removeVM(name),
  };
}

async function removeVM(name: string): Promise<void> {
  const found = await run('virsh', ['-q', '-c', systemUri, 'domstate', name], { timeoutMs: 60_000 });
  if (found.exitCode !== 0) return;
  if (found.stdout.trim() !== 'shut off') await virsh('destroy', name);
  await virsh('undefine', name, '--checkpoints-metadata');
}

async function untilReady(name: string, consoleLog: string): Promise<void> {
  const deadline = Date.now() + 180_000; // 10 s on an idle machine under emulation; a busy one is many times slower
  for (;;) {
    try {
      await runInGuest(name, 'test -e /tmp/ready');
      return;
    } catch (error) {
      if (Date.now() > deadline) {
        const tail = (await readFile(consoleLog, 'utf8').catch(() => '')).slice(-1000);
        throw new BackupError('HostNotUp', `Guest ${name} did not boot within 180 s; its console said: ${tail}`, {
          cause: error,
        });
      }
      await wait(200);
    }
  }
}

const started = z.object({ return: z.object({ pid: z.number() }) });
const status = z.object({
  return: z.object({
    exited: z.boolean(),
    exitcode: z.number().optional(),
    'out-data': z.string().optional(),
    'err-data': z.string().optional(),
  }),
});

async function runInGuest(name: string, command: string): Promise<string> {
  const { pid } = started.parse(
    await askAgent(name, 'guest-exec', { path: '/bin/sh', arg: ['-c', command], 'capture-output': true }),
  ).return;
  const deadline = Date.now() + 300_000; // writing some 100 MB under emulation
  for (;;) {
    const answer = status.parse(await askAgent(name, 'guest-exec-status', { pid })).return;
    if (answer.exited) {
      const printed = decode(answer['out-data']);
      if (answer.exitcode === 0) return printed;
      throw new BackupError(
        'ToolFailed',
        `Command '${command}' in guest ${name} failed with exit code ${answer.exitcode ?? 'none'}: ${decode(answer['err-data'])}${printed}`,
      );
    }
    if (Date.now() > deadline) throw new BackupError('ToolFailed', `Command '${command}' in guest ${name} took 300 s`);
    await wait(50);
  }
}

const decode = (base64: string | undefined) => Buffer.from(base64 ?? '', 'base64').toString('utf8');

async function askAgent(name: string, execute: string, args: Record<string, unknown>): Promise<unknown> {
  const command = JSON.stringify({ execute, arguments: args });
  // 20 s: the agent answers in milliseconds, but under emulation on a busy machine the guest may be slow to wake it.
  const { stdout } = await virsh('qemu-agent-command', name, command, '--timeout', '20');
  return JSON.parse(stdout);
}
