import { chmod, chown, mkdir, readFile, stat } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../src/domain/errors.js';
import { run, runOrThrow, type Program } from '../src/process/run.js';

/** The system's own libvirt, which is where VMs of a host usually are. */
export const systemUri = 'qemu:///system';

// Debian's own places, so that a daemon which somebody else starts at the same time finds the lock taken.
const pidFiles = { virtlogd: '/run/virtlogd.pid', libvirtd: '/run/libvirtd.pid' } as const;
type Daemon = keyof typeof pidFiles;

export interface Libvirtd {
  /** Stops what was started, unless a VM of somebody else still runs on it. */
  stop(): Promise<void>;
}

/**
 * Makes sure that libvirt answers: where no libvirtd runs, as in a container without systemd, starts one. May run twice.
 * @throws BackupError ToolMissing (names the Debian package), HostNotUp
 */
export async function ensureLibvirtd(): Promise<Libvirtd> {
  if (await answers()) return { stop: async () => undefined };
  if (process.getuid?.() !== 0) {
    throw new BackupError(
      'HostNotUp',
      `libvirt at ${systemUri} does not answer, and only root may start it; run as root`,
    );
  }
  const returnKVM = await lendKVM();
  await mkdir('/run/libvirt', { recursive: true }); // systemd would have made it
  const started: { daemon: Daemon; pid: number }[] = [];
  for (const daemon of ['virtlogd', 'libvirtd'] as const) {
    const pid = await startDaemon(daemon);
    if (pid !== null) started.push({ daemon, pid });
  }
  await untilItAnswers();
  return {
    stop: async () => {
      if (await hasRunningVM()) return;
      for (const { pid } of started.reverse()) await stopProcess(pid);
      await returnKVM();
    },
  };
}

/**
 * Gives /dev/kvm to the group kvm, as udev does, and returns how to take it back. Where the device is there but QEMU's user
 * cannot open it, libvirt 9 takes what it knows of QEMU for outdated at every call, and asks QEMU anew: 10 to 60 s each.
 */
async function lendKVM(): Promise<() => Promise<void>> {
  const device = '/dev/kvm';
  const before = await stat(device).catch(() => null);
  const groupId = /^kvm:[^:]*:(\d+):/m.exec(await readFile('/etc/group', 'utf8'))?.[1];
  if (!before || groupId === undefined || (before.mode & 0o006) === 0o006) return async () => undefined;
  if (before.gid === Number(groupId) && (before.mode & 0o060) === 0o060) return async () => undefined;
  await chown(device, before.uid, Number(groupId));
  await chmod(device, 0o660);
  return async () => {
    await chown(device, before.uid, before.gid);
    await chmod(device, before.mode & 0o7777);
  };
}

/** The pid of the daemon, or null when one was there already. It goes to the background when it can be reached. */
async function startDaemon(daemon: Daemon): Promise<number | null> {
  const pidFile = pidFiles[daemon];
  const program: Program = daemon;
  // 30 s: at its first start libvirtd asks every QEMU on the machine what it can do.
  const { exitCode, stderr } = await run(program, ['-d', '-p', pidFile], { timeoutMs: 30_000 });
  if (exitCode === 0) return readPid(pidFile);
  if (/already|acquire pid file/i.test(stderr) || (await isAlive(await readPid(pidFile)))) return null;
  throw new BackupError('HostNotUp', `${daemon} was expected to start, found: ${stderr.trim()}`);
}

async function readPid(pidFile: string): Promise<number | null> {
  const text = await readFile(pidFile, 'utf8').catch(() => '');
  return Number.parseInt(text, 10) || null;
}

/** A zombie is dead: where pid 1 is slow to reap, a daemon can stay one for seconds. */
async function isAlive(pid: number | null): Promise<boolean> {
  if (pid === null) return false;
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
  const { stdout } = await runOrThrow('virsh', ['-q', '-c', systemUri, 'list', '--name'], { timeoutMs: 30_000 });
  return stdout.trim() !== '';
}

/** TERM, and then wait for the end: a daemon that stays is an error, not something to kill. */
async function stopProcess(pid: number): Promise<void> {
  if (!(await isAlive(pid))) return;
  process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + 30_000; // libvirtd finishes the calls that it is in
  while (await isAlive(pid)) {
    if (Date.now() > deadline) throw new BackupError('HostNotUp', `Process ${pid} did not end within 30 s of SIGTERM`);
    await wait(50);
  }
}

/** Ends libvirtd and starts it again, as an upgrade of its package does; VMs go on. */
export async function restartLibvirtd(): Promise<void> {
  const pid = await readPid(pidFiles.libvirtd);
  if (pid !== null) await stopProcess(pid);
  await startDaemon('libvirtd');
  await untilItAnswers();
}
