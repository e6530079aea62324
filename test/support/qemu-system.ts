import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { runOrThrow } from '../../src/process/run.js';
import { withQMP } from '../../src/sources/qmp/client.js';
import { untilListening } from './nbd-source.js';

/** A real machine that is stopped before its first instruction; its monitor writes to the disks as the guest would. */
export interface QEMUSystem {
  qmpPath: string;
  write: (key: string, offset: number, length: number, pattern: number) => Promise<void>;
  zero: (key: string, offset: number, length: number) => Promise<void>;
  imageOf: (key: string) => string;
  start: () => Promise<void>;
  /** In good order, so that what QEMU keeps in the images is stored. */
  stop: () => Promise<void>;
}

/** Starts one with writable QCOW2 disks, an empty CD-ROM drive, one with a disc, and a read-only disk. No NBD server runs in it. */
export async function startQEMUSystem(
  directory: string,
  uuid: string,
  disks: { key: string; sizeBytes: number }[],
): Promise<QEMUSystem> {
  const qmpPath = join(directory, 'machine.qmp');
  const imageOf = (name: string, format = 'qcow2') => join(directory, `${name}.${format}`);
  const image = async (name: string, format: string, sizeBytes: number) => {
    const file = imageOf(name, format);
    await runOrThrow('qemu-img', ['create', '-q', '-f', format, file, String(sizeBytes)], { timeoutMs: 10_000 });
    return `file=${file},format=${format}`;
  };
  const drives = [
    `if=none,id=disc,media=cdrom,readonly=on,${await image('disc', 'raw', 2048)}`,
    `if=none,id=locked,readonly=on,${await image('locked', 'qcow2', 65_536)}`,
  ];
  const devices = ['ide-cd,drive=disc', 'virtio-blk-pci,drive=locked', 'ide-cd,id=empty'];
  for (const { key, sizeBytes } of disks) {
    drives.push(`if=none,id=${key},discard=unmap,${await image(key, 'qcow2', sizeBytes)}`);
    devices.push(`virtio-blk-pci,drive=${key},id=device-${key}`);
  }
  const args = [
    ...['-machine', 'pc', '-accel', 'tcg', '-m', '16', '-nodefaults', '-display', 'none', '-S', '-uuid', uuid],
    ...['-qmp', `unix:${qmpPath},server=on,wait=off`],
    ...drives.flatMap((drive) => ['-drive', drive]),
    ...devices.flatMap((device) => ['-device', device]),
  ];
  let child: ChildProcess | undefined;

  async function start(): Promise<void> {
    child = spawn('setpriv', ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...args], {
      stdio: 'ignore', // it prints the signal that ends it
    });
    await untilListening(qmpPath);
  }

  async function guest(key: string, command: string): Promise<void> {
    const line = `qemu-io -d /machine/peripheral/device-${key}/virtio-backend "${command}"`;
    await withQMP(qmpPath, AbortSignal.timeout(30_000), async (qmp) => {
      const said = await qmp.execute('human-monitor-command', { 'command-line': line });
      if (said !== '') throw new Error(`${line}: ${String(said)}`);
    });
  }

  await start();
  return {
    qmpPath,
    imageOf,
    start,
    write: (key, offset, length, pattern) => guest(key, `write -q -P ${pattern} ${offset} ${length}`),
    zero: (key, offset, length) => guest(key, `write -q -z -u ${offset} ${length}`),
    stop: async () => {
      if (!child || child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    },
  };
}
