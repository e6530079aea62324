import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { startEmbeddedPostgres } from '../src/embedded/postgres.js';
import { startService } from '../src/embedded/service.js';
import { findTemporalCLI, startTemporalServer } from '../src/embedded/temporal.js';

/** The command that users type; the set-up has built it. */
const program = fileURLToPath(new URL('../bin/backupvm.js', import.meta.url));

/** Postgres, Temporal and a worker, each a process of its own, with all data in one folder. */
export interface Lab {
  directory: string;
  databaseUrl: string;
  uiUrl: string;
  /** For `. FILE` in another terminal. */
  envFile: string;
  /** How the Temporal CLI is called on this machine. */
  temporalCommand: string;
  /** Runs a `backupvm` command as a user would, its output included. */
  backupvm: (...args: string[]) => Promise<void>;
  /** Ends everything, and removes the folder. */
  stop: () => Promise<void>;
}

export async function startLab(report: (line: string) => void): Promise<Lab> {
  const directory = await mkdtemp('/var/tmp/backupvm-demo-');
  await chmod(directory, 0o755); // Postgres and QEMU run as users of their own
  const undo: (() => Promise<void>)[] = [() => rm(directory, { recursive: true })];
  const stop = async () => {
    for (let step = undo.pop(); step; step = undo.pop()) await step();
  };
  try {
    const cliPath = await findTemporalCLI(process.env);
    report('Postgres');
    const postgres = await startEmbeddedPostgres({ dataDir: join(directory, 'postgres'), durable: true });
    undo.push(postgres.stop);
    report('Temporal server and Web UI');
    const temporal = await startTemporalServer({
      cliPath,
      dbFilename: join(directory, 'temporal.db'),
      namespace: 'default',
      searchAttributes: {},
    });
    undo.push(temporal.stop);

    const env = await makeEnvironment(directory, postgres.url, temporal.address);
    for (const name of Object.keys(process.env)) if (name.startsWith('TEMPORAL_')) delete process.env[name];
    Object.assign(process.env, env);
    const envFile = join(directory, 'env');
    await writeFile(
      envFile,
      Object.entries(env)
        .map(([name, value]) => `export ${name}='${value}'\n`)
        .join(''),
      { mode: 0o600 },
    );

    const backupvm = async (...args: string[]) => {
      report(`$ backupvm ${args.join(' ')}`);
      await execa(process.execPath, [program, ...args], { stdio: 'inherit' });
    };
    await backupvm('setup');
    report('worker');
    const worker = await startService({
      program: process.execPath,
      args: [program, 'worker'],
      logFile: join(directory, 'worker.log'),
      stopSignal: 'SIGTERM',
    });
    undo.push(worker.stop);
    const temporalCommand = basename(cliPath) === 'temporal' && dirname(cliPath) !== '.' ? 'temporal' : cliPath;
    return { directory, databaseUrl: postgres.url, uiUrl: temporal.uiUrl, envFile, temporalCommand, backupvm, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function makeEnvironment(
  directory: string,
  databaseUrl: string,
  temporalAddress: string,
): Promise<Record<string, string>> {
  const profile = join(directory, 'temporal.toml'); // the user's own may hold keys for another server
  await writeFile(profile, `[profile.default]\naddress = "${temporalAddress}"\nnamespace = "default"\n`);
  await mkdir(join(directory, 'repository'));
  return {
    DATABASE_URL: databaseUrl,
    TEMPORAL_ADDRESS: temporalAddress,
    TEMPORAL_NAMESPACE: 'default',
    TEMPORAL_CONFIG_FILE: profile,
    BACKUPVM_HOST: 'demo',
    BACKUPVM_SCRATCH_DIR: join(directory, 'scratch'),
    BACKUPVM_RUN_DIR: join(directory, 'run'),
    BACKUPVM_RESTORE_DIRS: join(directory, 'restored'),
  };
}
