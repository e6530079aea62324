import { randomBytes } from 'node:crypto';
import { access, chown, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { BackupError } from '../domain/errors.js';
import { runOrThrow } from '../process/run.js';
import { asAccount, type ServiceAccount } from './service.js';

export interface ClusterOptions {
  /** Holds the cluster and its password. */
  home: string;
  binaries: string;
  user: string;
  durable: boolean;
  account: ServiceAccount | undefined;
}

/** The directory and the password of the cluster in `home`, which is made when there is none; may be repeated after a kill. */
export async function openCluster(options: ClusterOptions): Promise<{ cluster: string; password: string }> {
  const cluster = join(options.home, 'cluster');
  const passwordFile = join(options.home, 'password');
  if (await exists(cluster)) {
    await releaseStaleLock(cluster);
    return { cluster, password: (await readFile(passwordFile, 'utf8')).trim() };
  }
  const password = randomBytes(16).toString('hex');
  await writeFile(passwordFile, password, { mode: 0o600 });

  // Renamed only when whole: initdb may be killed half-way.
  const unfinished = `${cluster}.new`;
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { mode: 0o700 });
  if (options.account) {
    const { uid, gid } = options.account;
    await Promise.all([passwordFile, unfinished].map((path) => chown(path, uid, gid)));
  }
  await initialise(unfinished, passwordFile, options);
  await rename(unfinished, cluster);
  return { cluster, password };
}

async function initialise(directory: string, passwordFile: string, options: ClusterOptions): Promise<void> {
  const args = [
    `--pgdata=${directory}`,
    `--username=${options.user}`,
    `--pwfile=${passwordFile}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
    '--locale-provider=builtin',
    '--builtin-locale=C.UTF-8', // the same order on every system, whatever locales it has
    ...(options.durable ? [] : ['--no-sync']),
  ];
  await runOrThrow('setpriv', [...asAccount(options.account), '--', join(options.binaries, 'initdb'), ...args], {
    cwd: '/',
    timeoutMs: 120_000, // half a second on a usual disk; it writes 40 MB, and durable ones are synced
  });
}

/**
 * Removes the lock of a server that was killed, where its process id went to another program: there Postgres would refuse
 * to start. Every other stale lock Postgres handles itself, with better knowledge.
 * @throws BackupError InUse when a server still runs on the cluster
 */
async function releaseStaleLock(cluster: string): Promise<void> {
  const lockFile = join(cluster, 'postmaster.pid');
  // A server whose parent was killed ends by itself within a moment.
  for (const deadline = Date.now() + 10_000; ; await delay(100)) {
    const lock = await readFile(lockFile, 'utf8').catch(() => undefined);
    const pid = Number.parseInt(lock ?? '', 10);
    if (!Number.isInteger(pid) || !(await exists(`/proc/${pid}`))) return;

    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (!commandLine.split('\0').includes(cluster)) return rm(lockFile, { force: true });
    if (Date.now() > deadline) {
      throw new BackupError(
        'InUse',
        `Expected no server on the Postgres data in ${cluster}, found process ${pid} running; stop the backupvm that started it, or choose another data directory`,
      );
    }
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
