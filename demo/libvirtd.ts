import { randomUUID } from 'node:crypto';
import { chmod, chown, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../src/domain/errors.js';
import { run, type Program } from '../src/process/run.js';

/** The system's own libvirt, which is where VMs of a host usually are. */
export const systemUri = 'qemu:///system';

// Debian's own places, so that a daemon which somebody else starts at the same time finds the lock taken.
const pidFiles = { virtlogd: '/run/virtlogd.pid', libvirtd: '/run/libvirtd.pid' } as const;
type Daemon = keyof typeof pidFiles;

// Who uses the daemons that were started here, one file for each, named after its pid; and how /dev/kvm was before.
const users = '/run/backupvm-libvirtd/users';
const kvmBefore = '/run/backupvm-libvirtd/kvm-before';

export interface Libvirtd {
  /** The last user of daemons that were started here stops them, unless a VM still runs. May run twice. */
  stop(): Promise<void>;
}

/**
 * Makes sure that libvirt answers: where no libvirtd runs, as in a container without systemd, starts one. May run twice, also
 * in several processes at once.
 * @throws BackupError ToolMissing (names the Debian package), HostNotUp
 */
export async function ensureLibvirtd(): Promise<Libvirtd> {
  const isThere = await answers();
  if (isThere && (await stat(users).catch(() => null)) === null) return { stop: async () => undefined };
  if (process.getuid?.() !== 0) {
    if (isThere) return { stop: async () => undefined };
    throw new BackupError(
      'HostNotUp',
      `libvirt at ${systemUri} does not answer, and only root may start it; run as root`,
    );
  }
  const user = path.join(users, `${process.pid}.${randomUUID()}`);
  await mkdir(users, { recursive: true });
  await writeFile(user, '');
  if (!(await answers())) await start();
  return {
    stop: async () => {
      await rm(user, { force: true });
      if ((await hasLivingUser()) || (await hasRunningVM())) return;
      await stopDaemon('libvirtd');
      await stopDaemon('virtlogd');
      await returnKVM();
      await rm(path.dirname(users), { recursive: true, force: true });
    },
  };
}

async function start(): Promise<void> {
  await lendKVM();
  await mkdir('/run/libvirt', { recursive: true }); // systemd would have made it
  await startDaemon('virtlogd');
  await startDaemon('libvirtd');
  await untilItAnswers();
}

async function hasLivingUser(): Promise<boolean> {
  const pids = (await readdir(users).catch(() => [])).map((name) => Number.parseInt(name, 10));
  return (await Promise.all(pids.map(isAlive))).includes(true);
}

/**
 * Gives /dev/kvm to the group kvm, as udev does. Where the device is there but QEMU's user cannot open it, libvirt 9 takes
 * what it knows of QEMU for outdated at every call, and asks QEMU anew: 10 to 60 s each.
 */
async function lendKVM(): Promise<void> {
  const before = await stat('/dev/kvm').catch(() => null);
  const groupId = Number(/^kvm:[^:]*:(\d+):/m.exec(await readFile('/etc/group', 'utf8'))?.[1]);
  if (!before || Number.isNaN(groupId) || (before.mode & 0o006) === 0o006) return;
  if (before.gid === groupId && (before.mode & 0o060) === 0o060) return;
  await writeFile(kvmBefore, `${before.uid} ${before.gid} ${before.mode & 0o7777}`);
  await chown('/dev/kvm', before.uid, groupId);
  await chmod('/dev/kvm', 0o660);
}

async function returnKVM(): Promise<void> {
  const [uid, gid, mode] = (await readFile(kvmBefore, 'utf8').catch(() => '')).split(' ').map(Number);
  if (uid === undefined || gid === undefined || mode === undefined) return;
  await chown('/dev/kvm', uid, gid);
  await chmod('/dev/kvm', mode);
}

/** Starts a daemon that is not there yet; it goes to the background when it can be reached. */
async function startDaemon(daemon: Daemon): Promise<void> {
  const program: Program = daemon;
  // 30 s: at its first start libvirtd asks every QEMU on the machine what it can do.
  const { exitCode, stderr } = await run(program, ['-d', '-p', pidFiles[daemon]], { timeoutMs: 30_000 });
  if (exitCode === 0 || (await pidOf(daemon)) !== null) return;
  throw new BackupError('HostNotUp', `${daemon} was expected to start, found: ${stderr.trim()}`);
}

/** Null also when the file is left over, and the pid is another program's by now. */
async function pidOf(daemon: Daemon): Promise<number | null> {
  const pid = Number.parseInt(await readFile(pidFiles[daemon], 'utf8').catch(() => ''), 10);
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return status.startsWith(`Name:\t${daemon}\n`) && (await isAlive(pid)) ? pid : null;
}

/** A zombie is dead: where pid 1 is slow to reap, a daemon can stay one for seconds. */
async function isAlive(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return status !== '' && !/^State:\s+[ZX]/m.test(status);
}

async function answers(): Promise<boolean> {
  // 10 s: socket activation by systemd may have to start the daemon first.
  return (await run('virsh', ['-q', '-c', systemUri, 'version'], { timeoutMs: 10_000 })).exitCode === 0;
}

async function untilItAnswers(): Promise<void> {
  const deadline = Date.now() + 60_000; // asking QEMU for its capabilities takes seconds where pid 1 is slow to reap
  while (!(await answers())) {
    if (Date.now() > deadline) {
      throw new BackupError('HostNotUp', `libvirtd was started but ${systemUri} does not answer; see /var/log/libvirt`);
    }
    await wait(100);
  }
}

async function hasRunningVM(): Promise<boolean> {
  // 30 s: libvirtd may be busy with another's call. One that does not answer has been stopped already.
  const { exitCode, stdout } = await run('virsh', ['-q', '-c', systemUri, 'list', '--name'], { timeoutMs: 30_000 });
  return exitCode === 0 && stdout.trim() !== '';
}

/** TERM, and then wait for the end: a daemon that stays is an error, not something to kill. */
async function stopDaemon(daemon: Daemon): Promise<void> {
  const pid = await pidOf(daemon);
  if (pid === null) return;
  process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + 30_000; // libvirtd finishes the calls that it is in
  while (await isAlive(pid)) {
    if (Date.now() > deadline)
      throw new BackupError('HostNotUp', `${daemon} (${pid}) did not end within 30 s of SIGTERM`);
    await wait(50);
  }
}

/** Ends libvirtd and starts it again, as an upgrade of its package does; VMs go on. */
export async function restartLibvirtd(): Promise<void> {
  await stopDaemon('libvirtd');
  await startDaemon('libvirtd');
  await untilItAnswers();
}
