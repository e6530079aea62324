import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDatabase } from '../src/db/database.js';
import { migrateDatabase } from '../src/db/migrate.js';
import { startEmbeddedPostgres } from '../src/embedded/postgres.js';
import { findTemporalCLI, startTemporalServer } from '../src/embedded/temporal.js';
import { freePorts } from '../test/support/ports.js';
import type { Servers } from '../test/support/lab.js';
import { send } from './victims.js';

/** A server that can be stopped and started again, with the same data at the same address. */
export interface Restartable {
  stop: () => Promise<void>;
  /** By SIGKILL: what it had not written is lost. */
  kill: () => Promise<void>;
  start: () => Promise<void>;
}

export interface Services {
  servers: Servers;
  postgres: Restartable;
  temporal: Restartable;
  close: () => Promise<void>;
}

/** Starts a Postgres and a Temporal server of our own. */
export async function startServices(): Promise<Services> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-chaos-'));
  await chmod(directory, 0o755); // Postgres runs as another user when we are root
  const [postgresPort, temporalPort, uiPort] = [await freePort(), await freePort(), await freePort()];
  const cliPath = await findTemporalCLI(process.env);
  const startPostgres = () => startEmbeddedPostgres({ dataDir: directory, port: postgresPort, durable: true });
  const startTemporal = () =>
    startTemporalServer({
      ...{ cliPath, port: temporalPort, uiPort, namespace: 'default', searchAttributes: {} },
      dbFilename: join(directory, 'temporal.db'),
    });
  let runningPostgres = await startPostgres();
  let runningTemporal = await startTemporal();
  const opened = openDatabase({ connectionString: runningPostgres.url }, () => undefined);
  await migrateDatabase(opened.pool);
  await opened.close();
  return {
    servers: { templateDatabaseUrl: runningPostgres.url, temporalAddress: runningTemporal.address },
    postgres: {
      stop: () => runningPostgres.stop(),
      kill: async () => {
        await killBy(['-D', directory]);
        await runningPostgres.ended;
      },
      start: async () => void (runningPostgres = await startPostgres()),
    },
    temporal: {
      stop: () => runningTemporal.stop(),
      kill: async () => {
        await killBy(['start-dev', directory]);
        await runningTemporal.ended;
      },
      start: async () => void (runningTemporal = await startTemporal()),
    },
    async close() {
      await runningTemporal.stop();
      await runningPostgres.stop();
      await rm(directory, { recursive: true });
    },
  };
}

/** Kills the server whose command line holds these: our own, because one of them is our directory. */
async function killBy(parts: readonly string[]): Promise<void> {
  for (const entry of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const commandLine = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '');
    if (parts.every((part) => commandLine.includes(part))) send(Number(entry));
  }
}

const freePort = async () => (await freePorts(1)).first;
