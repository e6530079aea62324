import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import pg from 'pg';
import { BackupError } from '../domain/errors.js';
import { makePassableDirectory } from '../process/passable-directory.js';
import { assertPortFree, freePort } from './port.js';
import { assertSearchable, postgresAccount } from './postgres-account.js';
import { postgresBinaries } from './postgres-binaries.js';
import { openCluster } from './postgres-cluster.js';
import { logTail, startService, untilReady } from './service.js';

export interface EmbeddedPostgresOptions {
  /** Holds the cluster, its password and its log. */
  dataDir: string;
  /** Default: any free one. */
  port?: number;
  /** True: the data outlive us and survive a power cut. False: fast, and all of it is removed at `stop`. */
  durable: boolean;
}

export interface EmbeddedPostgres {
  /** Of the database `backupvm`, with the password. */
  url: string;
  /** Resolves when the server has ended, whoever ended it, with how. */
  ended: Promise<string>;
  stop: () => Promise<void>;
}

const user = 'backupvm';
const database = 'backupvm';
const throwAwaySettings = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'max_connections=300'];

/**
 * Starts a Postgres server of our own on 127.0.0.1, also as root. A second durable start on the same directory finds the
 * data of the first; two at once on one directory are refused.
 * @throws BackupError InvalidConfiguration (directory out of reach), InUse (data or port), DatabaseUnreachable
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { durable } = options;
  const dataDir = resolve(options.dataDir);
  const account = await postgresAccount();
  await makePassableDirectory(dataDir);
  if (account) await assertSearchable(dataDir, account);
  const binaries = await postgresBinaries(account);
  const home = durable ? dataDir : await throwAwayDirectory(dataDir);
  const { cluster, password } = await openCluster({ home, binaries, user, durable, account });

  const port = options.port ?? (await freePort());
  await assertPortFree(port, 'Postgres');
  const settings = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', ...(durable ? [] : throwAwaySettings)];
  const logFile = join(home, 'postgres.log');
  const server = await startService({
    program: join(binaries, 'postgres'),
    args: ['-D', cluster, '-p', String(port), ...settings.flatMap((setting) => ['-c', setting])],
    logFile,
    stopSignal: 'SIGINT', // Postgres' fast shutdown: SIGTERM would wait for every client to leave
    account,
  });
  const url = `postgresql://${user}:${password}@127.0.0.1:${port}/${database}`;
  try {
    // A killed server replays its log first, which takes a while after a busy time.
    await untilReady(server, () => ensureDatabase(url), 60_000);
  } catch (cause) {
    const found = `${(cause as Error).message}; its log ends:\n${await logTail(logFile)}`;
    throw new BackupError(
      'DatabaseUnreachable',
      `Expected Postgres in ${home} to answer on port ${port}, but ${found}`,
      {
        cause,
      },
    );
  }
  const stop = async () => {
    await server.stop();
    if (!durable) await rm(home, { recursive: true, force: true });
  };
  return { url, ended: server.ended, stop };
}

/** Its own for each start: what another one left there, or still uses, is not ours to remove. */
async function throwAwayDirectory(dataDir: string): Promise<string> {
  const home = await mkdtemp(join(dataDir, 'postgres-'));
  await chmod(home, 0o755);
  return home;
}

async function ensureDatabase(url: string): Promise<void> {
  const maintenance = new URL(url);
  maintenance.pathname = '/postgres';
  // Without a limit a connection that is never answered would outlast the wait for the start.
  const client = new pg.Client({ connectionString: maintenance.href, connectionTimeoutMillis: 5_000 });
  await client.connect();
  try {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [database]);
    if (rowCount === 0) await client.query(`create database ${database}`);
  } finally {
    await client.end();
  }
}
