import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { virshAt } from '../test/libvirt/bios-domain.js';
import { patiently } from './run.js';

// What libvirtd keeps, and where. It sees directories of ours there, so that the libvirt of this machine, whose VMs are
// somebody's, is neither killed nor seen.
const places = {
  run: '/run/libvirt',
  lib: '/var/lib/libvirt',
  cache: '/var/cache/libvirt',
  log: '/var/log/libvirt',
  etc: '/etc/libvirt',
};

/** A libvirtd of our own. */
export interface Libvirt {
  uri: string;
  /** Kills it by SIGKILL, and returns when a new one answers; its VMs go on. Who comes in between waits for the same. */
  restart: (downMs: number) => Promise<void>;
  /** Its VMs have been stopped. */
  stop: () => Promise<void>;
}

/** Whether one can be started here: that needs the program, and root, for a mount namespace. */
export const libvirtIsHere = () => spawnSync('unshare', ['--mount', 'libvirtd', '--version']).status === 0;

/** Starts one, in a mount namespace of its own. Its first start takes about 10 s: it asks QEMU what it can do. */
export async function startLibvirt(): Promise<Libvirt> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-chaos-libvirt-'));
  await chmod(directory, 0o755);
  for (const name of Object.keys(places)) await mkdir(join(directory, name));
  for (const place of Object.values(places)) await mkdir(place, { recursive: true });
  // Without virtlogd, and without a namespace for each VM, which is made of directories that are not there.
  const settings = ['user = "root"', 'group = "root"', 'stdio_handler = "file"', 'namespaces = []'];
  await writeFile(join(directory, 'etc', 'qemu.conf'), settings.join('\n'));
  await writeFile(join(directory, 'etc', 'libvirtd.conf'), 'auth_unix_rw = "none"\n');
  const uri = `qemu+unix:///system?socket=${join(directory, 'run', 'libvirt-sock')}`;
  const mounts = Object.entries(places).map(([name, place]) => `mount --bind ${join(directory, name)} ${place}`);
  const daemon = `exec libvirtd -f /etc/libvirt/libvirtd.conf -p ${join(directory, 'libvirtd.pid')}`;
  const script = [...mounts, daemon].join(' && ');
  const command = ['--pdeathsig', 'KILL', 'unshare', '--mount', '--propagation', 'private', 'sh', '-c', script];
  let child: ChildProcess | undefined;
  let restarting: Promise<void> | undefined;
  const isAlive = () => child?.exitCode === null && child.signalCode === null;

  async function end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    if (!child || !isAlive()) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }
  async function start(): Promise<void> {
    await patiently(() => {
      if (!isAlive()) child = spawn('setpriv', command, { stdio: 'ignore' });
      return virshAt(uri, 'list');
    });
  }
  async function restart(downMs: number): Promise<void> {
    await end('SIGKILL');
    await wait(downMs);
    await start();
  }

  await start();
  return {
    uri,
    restart: (downMs) => (restarting ??= restart(downMs).finally(() => (restarting = undefined))),
    async stop() {
      await end('SIGTERM');
      await rm(directory, { recursive: true });
    },
  };
}
