import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BackupError } from '../domain/errors.js';
import { run, runOrThrow } from '../process/run.js';
import type { ServiceAccount } from './service.js';

const name = 'postgres';
const timeoutMs = 30_000; // both read and write a few local files; a remote user directory may be slow

/** The account that Postgres runs as: our own, or the system user `postgres` (made when missing) when we are root, whom Postgres refuses. */
export async function postgresAccount(): Promise<ServiceAccount | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const known = await lookUp();
  if (known) return known;
  await runOrThrow(
    'useradd',
    ['--system', '--user-group', '--home-dir=/nonexistent', '--shell=/usr/sbin/nologin', name],
    {
      timeoutMs,
    },
  );
  const made = await lookUp();
  if (made) return made;
  throw new BackupError('InvalidConfiguration', `Expected the system user '${name}' after useradd made it, found none`);
}

async function lookUp(): Promise<ServiceAccount | undefined> {
  const { exitCode, stdout } = await run('getent', ['passwd', name], { timeoutMs });
  if (exitCode !== 0) return undefined;
  const [, , uid, gid] = stdout.split(':');
  return { uid: Number(uid), gid: Number(gid) };
}

/**
 * Makes sure that the account can reach a directory.
 * @throws BackupError InvalidConfiguration, which names the first directory on the way that it may not search
 */
export async function assertSearchable(directory: string, { uid, gid }: ServiceAccount): Promise<void> {
  const closed: string[] = [];
  for (let path = directory; ; path = dirname(path)) {
    const { mode, uid: owner, gid: group } = await stat(path);
    const bit = owner === uid ? 0o100 : group === gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) closed.push(path);
    if (path === dirname(path)) break;
  }
  const first = closed.at(-1);
  if (first === undefined) return;
  throw new BackupError(
    'InvalidConfiguration',
    `Expected a data directory for Postgres that user '${name}' can reach, found ${directory} below ${first}, which is closed to it; ` +
      `choose one below a directory with mode 755, such as /var/lib/backupvm`,
  );
}
