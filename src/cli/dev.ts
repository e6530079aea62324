import { chmod, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { readConfig, type Config } from '../config/config.js';
import { openDatabase } from '../db/database.js';
import { giveUpNamespace } from '../db/installations.js';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { listenBriefly } from '../embedded/port.js';
import { startEmbeddedPostgres } from '../embedded/postgres.js';
import { findTemporalCLI, startTemporalServer } from '../embedded/temporal.js';
import { describeNamespace } from '../temporal-namespace.js';
import { makePassableDirectory } from '../process/passable-directory.js';
import { addCommand, parseCount } from './command.js';
import { withTemporal } from './connect.js';
import { givenUpBy } from './lose-namespace.js';
import { searchAttributeTypes } from './search-attributes.js';
import { applyMigrations } from './setup.js';
import { print, printProgress, type CommonOptions, type Terminal } from './terminal.js';

interface DevOptions extends CommonOptions {
  data: string;
  restoreDir?: string[];
  postgresPort: number;
  temporalPort: number;
  uiPort: number;
  lostNamespace?: string;
}

const namespace = 'default'; // so that the Temporal CLI finds it without being told

export function addDevCommand(program: Command, terminal: Terminal): void {
  const port = (flags: string, description: string, value: number) =>
    new Option(flags, description).argParser(parseCount(65_535)).default(value);
  addCommand(
    program,
    'dev',
    'Run everything on this machine until Ctrl-C, data in one folder',
    'dev --data /srv/backupvm',
  )
    .option('--data <directory>', 'where everything is kept', defaultDataDir(terminal.env))
    .addOption(
      new Option(
        '--restore-dir <directory>',
        'where restores to files and new VMs may write; give it again for more (default: <data>/restored)',
      ).argParser((directory: string, directories: string[] | undefined) => [...(directories ?? []), directory]),
    )
    .addOption(port('--postgres-port <port>', 'port of the embedded Postgres', 15_432))
    .addOption(port('--temporal-port <port>', 'port of the embedded Temporal server', 7233))
    .addOption(port('--ui-port <port>', "port of Temporal's Web UI", 8233))
    .option('--lost-namespace <id>', 'carry on without the Temporal data of this folder, which are lost')
    .action(async (options: DevOptions) => runDev(terminal, options));
}

function defaultDataDir(env: Terminal['env']): string {
  // Postgres refuses to run as root, and the user it gets instead cannot look into /root.
  if (process.getuid?.() === 0) return '/var/lib/backupvm/dev';
  return join(env['XDG_DATA_HOME'] || join(env['HOME'] || homedir(), '.local', 'share'), 'backupvm', 'dev');
}

async function runDev(terminal: Terminal, options: DevOptions): Promise<void> {
  const signal = terminal.onInterrupt();
  const dataDir = resolve(options.data);
  const cliPath = await findTemporalCLI(terminal.env);
  await requireFreePorts(options);
  await makePassableDirectory(dataDir);
  const restoreDirs = await chooseRestoreDirs(terminal.env, dataDir, options.restoreDir);
  const directories = {
    BACKUPVM_SCRATCH_DIR: terminal.env['BACKUPVM_SCRATCH_DIR'] || join(dataDir, 'scratch'),
    BACKUPVM_RUN_DIR: terminal.env['BACKUPVM_RUN_DIR'] || join(dataDir, 'run'),
    BACKUPVM_RESTORE_DIRS: restoreDirs,
  };

  printProgress(terminal, options, `Starting Postgres and Temporal; data in ${dataDir}`);
  const postgres = await startEmbeddedPostgres({
    dataDir: join(dataDir, 'postgres'),
    port: options.postgresPort,
    durable: true,
  });
  try {
    const config = readConfig({ ...terminal.env, ...directories, DATABASE_URL: postgres.url });
    await applyMigrations(config);
    const temporal = await startTemporalServer({
      cliPath,
      dbFilename: join(dataDir, 'temporal.db'),
      port: options.temporalPort,
      uiPort: options.uiPort,
      namespace,
      searchAttributes: searchAttributeTypes,
    });
    try {
      const settings = {
        DATABASE_URL: postgres.url,
        TEMPORAL_ADDRESS: temporal.address,
        TEMPORAL_NAMESPACE: namespace,
        TEMPORAL_CONFIG_FILE: await writeTemporalProfile(dataDir, temporal.address),
        BACKUPVM_HOST: config.host,
        ...directories,
      };
      const envFile = join(dataDir, 'env');
      await writeEnvFile(envFile, settings);
      useTemporal(settings);
      print(terminal, options, {
        document: {
          ...{ dataDir, envFile, host: config.host, restoreDirs: config.restoreDirs, webUI: temporal.uiUrl },
          ...{ postgres: config.database.address, temporal: temporal.address, namespace },
        },
        text: [
          `Postgres   ${config.database.address}`,
          `Temporal   ${temporal.address}, namespace '${namespace}'`,
          `Web UI     ${temporal.uiUrl}`,
          `Host       ${config.host}`,
          `Restores   to ${restoreDirs.replaceAll(':', ', ')}, or in place`,
          '',
          'In another terminal, this sets DATABASE_URL, TEMPORAL_ADDRESS and the like:',
          `  . ${shellQuote(envFile)}`,
          '',
          'Ctrl-C stops all of it',
        ].join('\n'),
      });
      if (options.lostNamespace !== undefined) await giveUpNamespaceOf(config, options.lostNamespace);
      const { runWorker } = await import('../worker.js'); // reads the settings above
      // Taken over where the folder came from another machine: whoever runs this database is the host that it records.
      const work = (ending: AbortSignal) => runWorker(config, { takeOver: true, signal: ending }).catch(withWayOut);
      await runUntilInterrupted(signal, work, { Postgres: postgres.ended, Temporal: temporal.ended });
    } finally {
      await temporal.stop();
    }
  } finally {
    await postgres.stop();
  }
  printProgress(terminal, options, 'Stopped: worker, Temporal, Postgres');
}

/** What was asked for by option or variable; else a directory of our own, which is made so that QEMU's user can pass it. */
async function chooseRestoreDirs(env: Terminal['env'], dataDir: string, asked: string[] | undefined): Promise<string> {
  if (asked) return asked.map((directory) => resolve(directory)).join(':');
  if (env['BACKUPVM_RESTORE_DIRS']) return env['BACKUPVM_RESTORE_DIRS'];
  const own = join(dataDir, 'restored');
  await makePassableDirectory(own);
  return own;
}

async function giveUpNamespaceOf(config: Config, lostId: string): Promise<void> {
  const { db, close } = openDatabase(config.database.pool, () => undefined);
  try {
    await withTemporal(async ({ connection, namespace: name, address }) => {
      const answering = await describeNamespace(connection, { name, address });
      await giveUpNamespace(db, { lostId, givenUpBy: givenUpBy() }, answering);
    });
  } finally {
    await close();
  }
}

/** The servers stop with us, so that no other command could help. */
function withWayOut(error: unknown): never {
  if (!(error instanceof BackupError) || error.code !== 'WrongNamespace') throw error;
  const id = String(error.details?.['recordedId']);
  throw new BackupError(
    'WrongNamespace',
    `${error.message}; 'backupvm dev' has stopped its servers: run 'backupvm dev --lost-namespace ${id}' instead`,
    { cause: error },
  );
}

/** Runs the worker until Ctrl-C, or until one of the servers has ended: then the worker ends, too, and that is a failure. */
async function runUntilInterrupted(
  interrupted: AbortSignal,
  work: (ending: AbortSignal) => Promise<void>,
  servers: Readonly<Record<string, Promise<string>>>,
): Promise<void> {
  const serverEnded = new AbortController();
  let failure: string | undefined;
  for (const [name, ended] of Object.entries(servers)) {
    const onEnd = (how: unknown) => {
      failure ??= `${name} ended by itself (${String(how)})`;
      serverEnded.abort();
    };
    ended.then(onEnd, onEnd);
  }
  await work(AbortSignal.any([interrupted, serverEnded.signal]));
  if (failure !== undefined) {
    throw new BackupError('ToolFailed', `${failure}; its log is in the data directory, start 'backupvm dev' again`);
  }
}

/** @throws BackupError PortTaken: better than to meet a server that is not ours */
async function requireFreePorts({ postgresPort, temporalPort, uiPort }: DevOptions): Promise<void> {
  const ports = { '--postgres-port': postgresPort, '--temporal-port': temporalPort, '--ui-port': uiPort };
  for (const [option, port] of Object.entries(ports)) {
    try {
      await listenBriefly(port);
    } catch (cause) {
      const said = messageOf(cause);
      throw new BackupError(
        'PortTaken',
        `Expected port ${port} of 127.0.0.1 free: ${said}; choose another by ${option}`,
        {
          cause,
        },
      );
    }
  }
}

/** For `. FILE` in a shell: also forgets keys that are meant for another Temporal server. Holds the database's password. */
async function writeEnvFile(path: string, settings: Readonly<Record<string, string>>): Promise<void> {
  const lines = Object.entries(settings).map(([name, value]) => `export ${name}=${shellQuote(value)}\n`);
  const forget = 'unset TEMPORAL_PROFILE TEMPORAL_API_KEY TEMPORAL_TLS\n';
  await writeFile(path, forget + lines.join(''), { mode: 0o600 });
  await chmod(path, 0o600); // of a file that was there before
}

/** A profile of our own, so that the certificates and keys in the user's are left alone. @returns its path */
async function writeTemporalProfile(dataDir: string, address: string): Promise<string> {
  const path = join(dataDir, 'temporal.toml');
  await writeFile(path, `[profile.default]\naddress = "${address}"\nnamespace = "${namespace}"\n`);
  return path;
}

/** Points this process at the embedded server: an API key for another one must not reach it. */
function useTemporal(settings: Readonly<Record<string, string>>): void {
  for (const name of Object.keys(process.env)) if (name.startsWith('TEMPORAL_')) delete process.env[name];
  Object.assign(process.env, settings);
}

function shellQuote(text: string): string {
  return /^[\w./:@-]+$/.test(text) ? text : `'${text.replaceAll(`'`, `'\\''`)}'`;
}
