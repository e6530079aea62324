import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { run, runOrThrow } from '../../src/process/run.js';
import { createTestImage } from './create-image.js';
import { until } from './until.js';

/** `luks-qcow2` is a QCOW2 file with encrypted clusters; `raw-on-luks` a raw disk in a LUKS container, below a layer of its own. */
type ImageFormat = 'qcow2' | 'raw' | 'luks' | 'luks-qcow2' | 'raw-on-luks';

export interface StorageDaemonOptions {
  /** Where sockets and images go; images that are there already are used. */
  directory: string;
  /** The VM's name: its sockets are NAME.qmp and NAME.nbd. */
  name: string;
  disks: { key: string; sizeBytes: number; format?: ImageFormat }[];
  /** Whether the process has an iothread. No disk gets it: then QEMU 7.2 would abort at our own first look at the disk. */
  hasIothread?: boolean;
}

/** A VM without guest: qemu-storage-daemon holds its disks, and NBD clients write to them as the guest would. */
export interface StorageDaemon {
  write: (key: string, offset: number, length: number, pattern: number) => Promise<void>;
  zero: (key: string, offset: number, length: number) => Promise<void>;
  read: (key: string, file: string) => Promise<void>;
  imageOf: (key: string) => string;
  /** As a power cut: what QEMU had not stored is lost. */
  kill: () => Promise<void>;
  /** Halts it where it stands: whoever reads from it waits, until `resume`. */
  pause: () => void;
  resume: () => void;
  /** Ends it if need be, in good order, and starts it anew on the same images. */
  restart: () => Promise<void>;
  stop: () => Promise<void>;
}

const secret = 'secret,id=passphrase,data=letmein';
const withSecret = (format: string, options: string) => ['-f', format, '--object', secret, '-o', options];
const createOptions: Record<ImageFormat, string[]> = {
  qcow2: ['-f', 'qcow2'],
  raw: ['-f', 'raw'],
  luks: withSecret('luks', 'key-secret=passphrase,iter-time=10'),
  'luks-qcow2': withSecret('qcow2', 'encrypt.format=luks,encrypt.key-secret=passphrase,encrypt.iter-time=10'),
  'raw-on-luks': withSecret('luks', 'key-secret=passphrase,iter-time=10'),
};

/** The layers above a file, the guest's last. */
function blockdevs(key: string, format: ImageFormat): string[] {
  const above = (driver: string, name: string, file: string) =>
    `driver=${driver},node-name=${name},file=${file},discard=unmap`;
  switch (format) {
    case 'luks':
      return [`${above('luks', key, `${key}-file`)},key-secret=passphrase`];
    case 'luks-qcow2':
      return [`${above('qcow2', key, `${key}-file`)},encrypt.format=luks,encrypt.key-secret=passphrase`];
    case 'raw-on-luks':
      return [`${above('luks', `${key}-luks`, `${key}-file`)},key-secret=passphrase`, above('raw', key, `${key}-luks`)];
    default:
      return [above(format, key, `${key}-file`)];
  }
}

/** Starts one and returns when it serves. About 0.1 s. */
export async function startStorageDaemon({
  directory,
  name,
  disks,
  hasIothread = false,
}: StorageDaemonOptions): Promise<StorageDaemon> {
  const qmpPath = join(directory, `${name}.qmp`);
  const nbdPath = join(directory, `${name}.nbd`);
  const imageOf = (key: string) => join(directory, `${name}-${key}.img`);
  const uriOf = (key: string) => `nbd+unix:///${key}?socket=${encodeURIComponent(nbdPath)}`;
  let child: ChildProcess | undefined;
  const tellOfEnd = (code: number | null, signal: string | null) =>
    void process.stderr.write(`the daemon of ${name} ended by itself: ${signal ?? code}\n`);

  for (const { key, sizeBytes, format = 'qcow2' } of disks) {
    if (existsSync(imageOf(key))) continue;
    await createTestImage([...createOptions[format], imageOf(key), String(sizeBytes)]);
  }

  async function start(): Promise<void> {
    const objects = hasIothread ? ['--object', 'iothread,id=io0'] : [];
    const nodes = disks.flatMap(({ key, format = 'qcow2' }) => [
      ...['--blockdev', `driver=file,node-name=${key}-file,filename=${imageOf(key)},discard=unmap`],
      ...blockdevs(key, format).flatMap((node) => ['--blockdev', node]),
      ...['--export', `type=nbd,id=guest-${key},node-name=${key},name=${key},writable=on`],
    ]);
    const servers = [
      ...['--nbd-server', `addr.type=unix,addr.path=${nbdPath},max-connections=0`],
      ...['--chardev', `socket,id=qmp,path=${qmpPath},server=on,wait=off`, '--monitor', 'chardev=qmp,mode=control'],
    ];
    const args = ['--pdeathsig', 'KILL', 'qemu-storage-daemon', '--object', secret, ...objects, ...servers, ...nodes];
    child = spawn('setpriv', args, { stdio: ['ignore', 'ignore', 'inherit'] });
    child.once('exit', tellOfEnd);
    await untilServing();
  }

  /** Asks the exports, not the monitor: QEMU crashes, seldom, when somebody connects to its monitor in the moment it starts. */
  async function untilServing(): Promise<void> {
    const asked = uriOf(disks[0]?.key ?? '');
    await until(
      `somebody to serve ${asked}`,
      async () => (await run('nbdinfo', ['--size', asked], { timeoutMs: 10_000 })).exitCode === 0,
      10_000,
    );
  }

  async function end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    child?.off('exit', tellOfEnd);
    child?.kill('SIGCONT'); // a paused one would not see SIGTERM
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  async function guest(key: string, command: string): Promise<void> {
    await runOrThrow('qemu-io', ['-f', 'raw', '-c', command, uriOf(key)], { timeoutMs: 30_000 });
  }

  await start();
  return {
    write: (key, offset, length, pattern) => guest(key, `write -P ${pattern} ${offset} ${length}`),
    zero: (key, offset, length) => guest(key, `write -z -u ${offset} ${length}`),
    read: async (key, file) => {
      await runOrThrow('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uriOf(key), file], { timeoutMs: 30_000 });
    },
    imageOf,
    pause: () => child?.kill('SIGSTOP'),
    resume: () => child?.kill('SIGCONT'),
    kill: () => end('SIGKILL'),
    restart: async () => {
      await end('SIGTERM');
      await start();
    },
    stop: () => end('SIGTERM'),
  };
}
