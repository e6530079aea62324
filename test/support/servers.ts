import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ProvidedContext } from 'vitest';
import type { TestProject } from 'vitest/node';
import { openDatabase } from '../../src/db/database.js';
import { migrateDatabase } from '../../src/db/migrate.js';
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js';
import { findTemporalCLI, startTemporalServer } from '../../src/embedded/temporal.js';
import { bundleWorkflows } from './bundle-workflows.js';

declare module 'vitest' {
  interface ProvidedContext {
    /** Of the migrated database that test databases are copied from; nobody may stay connected to it. */
    templateDatabaseUrl: string;
    temporalAddress: string;
    temporalNamespace: string;
    temporalUIUrl: string;
    temporalCLIPath: string;
    /** What the workers of the tests' own processes load. */
    workflowBundlePath: string;
  }
}

/** The rest comes from test/faults/bundle.ts. */
type Provided = Omit<ProvidedContext, 'workerPath'>;

interface Servers {
  provided: Provided;
  stop: () => Promise<void>;
}

// On the process and not in this module: vitest loads a module anew for each project that lists it.
const shared = process as typeof process & { backupvmServers?: { users: number; servers: Promise<Servers> } };

/** Starts one Postgres and one Temporal server, and bundles the workflows, for the whole test run; the last project stops them. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const running = (shared.backupvmServers ??= { users: 0, servers: startServers() });
  running.users += 1;
  const { provided, stop } = await running.servers;
  for (const key of Object.keys(provided) as (keyof Provided)[]) project.provide(key, provided[key]);

  return async () => {
    running.users -= 1;
    if (running.users > 0) return;
    delete shared.backupvmServers;
    await stop();
  };
}

async function startServers(): Promise<Servers> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-test-'));
  await chmod(directory, 0o755); // Postgres runs as another user when we are root
  const workflows = bundleWorkflows(directory).then((workflowBundlePath) => ({
    provided: { workflowBundlePath },
    stop: async () => undefined,
  }));
  const started = await Promise.allSettled([startDatabase(directory), startTemporal(directory), workflows]);
  const stop = async () => {
    await Promise.all(started.flatMap((one) => (one.status === 'fulfilled' ? [one.value.stop()] : [])));
    await rm(directory, { recursive: true });
  };
  const [database, temporal, code] = started;
  if (database.status === 'fulfilled' && temporal.status === 'fulfilled' && code.status === 'fulfilled') {
    return { provided: { ...database.value.provided, ...temporal.value.provided, ...code.value.provided }, stop };
  }
  await stop();
  const failures = started.flatMap((one) => (one.status === 'rejected' ? [one.reason as Error] : []));
  throw new AggregateError(failures, failures.map(String).join('\n'));
}

async function startDatabase(directory: string) {
  const { url, stop } = await startEmbeddedPostgres({ dataDir: directory, durable: false });
  const opened = openDatabase({ connectionString: url }, () => undefined);
  try {
    await migrateDatabase(opened.pool);
  } catch (error) {
    await stop();
    throw error;
  } finally {
    await opened.close();
  }
  return { provided: { templateDatabaseUrl: url }, stop };
}

async function startTemporal(directory: string) {
  const temporalCLIPath = await findTemporalCLI(process.env);
  const temporalNamespace = 'backupvm-test';
  const { address, uiUrl, stop } = await startTemporalServer({
    cliPath: temporalCLIPath,
    dbFilename: join(directory, 'temporal.db'),
    namespace: temporalNamespace,
    searchAttributes: {
      BackupVMName: 'Keyword',
      BackupRepository: 'Keyword',
      BackupType: 'Keyword',
      BackupStatus: 'Keyword',
    },
  });
  return { provided: { temporalAddress: address, temporalUIUrl: uiUrl, temporalNamespace, temporalCLIPath }, stop };
}
