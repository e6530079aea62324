import { chmod, mkdir, mkdtemp, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { inject } from 'vitest';
import { readConfig } from '../../src/config/config.js';
import { openDatabase } from '../../src/db/database.js';
import { makeMachines, openLab, type Lab } from '../support/lab.js';
import { freePorts } from '../support/ports.js';
import { until } from '../support/until.js';
import { pathWithHeldCopies } from './held-copies.js';

/** A command of the product in a process of its own, as a user starts it. */
export interface CommandProcess {
  /** What it has written to standard error until now. */
  log: () => string;
  ended: Promise<{ exitCode: number | undefined; stdout: string; stderr: string }>;
  /** Ctrl-C, and waits for its end. */
  stop: () => Promise<void>;
}

type Environment = Readonly<Record<string, string>>;

export function startCommand(argv: readonly string[], env: Environment): CommandProcess {
  const child = execa(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', ...argv], { reject: false, env });
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
  const ended = child.then(({ exitCode, stdout, stderr }) => ({ exitCode, stdout, stderr }));
  return {
    log: () => log,
    ended,
    async stop() {
      child.kill('SIGINT');
      await ended;
    },
  };
}

/** Runs one to its end. @throws Error with what it said when it fails */
export async function runProduct(argv: readonly string[], env: Environment): Promise<string> {
  const { exitCode, stdout, stderr } = await startCommand(argv, env).ended;
  if (exitCode !== 0) throw new Error(`backupvm ${argv.join(' ')} ended with ${exitCode}: ${stderr}`);
  return stdout;
}

/** Waits until a worker, or `dev`, takes work. */
export async function untilStarted(worker: CommandProcess): Promise<void> {
  let hasEnded = false;
  void worker.ended.then(() => (hasEnded = true));
  await until('the worker', () => hasEnded || worker.log().includes('worker started'), 180_000); // bundles the workflows first
  if (hasEnded) throw new Error(`The worker ended before it took work: ${worker.log()}`);
}

/** The environment of a lab's commands. */
export function environmentOf({ config, database, temporalAddress, namespace }: Lab): Environment {
  return {
    ...{ DATABASE_URL: database.url, BACKUPVM_HOST: config.host },
    ...{ TEMPORAL_ADDRESS: temporalAddress, TEMPORAL_NAMESPACE: namespace, TEMPORAL_CONFIG_FILE: '/nonexistent.toml' },
    BACKUPVM_NBD_PORTS: `${config.nbdPorts.first}-${config.nbdPorts.last}`,
    BACKUPVM_SCRATCH_DIR: config.scratchDir,
    BACKUPVM_RUN_DIR: config.runDir,
    BACKUPVM_RECONCILE_SECONDS: String(config.reconcileIntervalMs / 1000),
  };
}

/** `backupvm dev` in a folder of its own, with a repository and a hypervisor that were added as the README says. */
export async function startDev(): Promise<{ lab: Lab; stop: () => Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-dev-'));
  await chmod(directory, 0o755); // Postgres runs as another user when we are root
  const [{ first }, nbd] = [await freePorts(3), await freePorts(16)];
  const given = {
    ...{ BACKUPVM_HOST: 'dev-host', BACKUPVM_RECONCILE_SECONDS: '5', BACKUPVM_NBD_PORTS: `${nbd.first}-${nbd.last}` },
    ...{ TEMPORAL_CLI_PATH: inject('temporalCLIPath'), PATH: await pathWithHeldCopies(directory) },
  };
  const ports = ['--postgres-port', `${first}`, '--temporal-port', `${first + 1}`, '--ui-port', `${first + 2}`];
  const dev = startCommand(['dev', '--data', join(directory, 'data'), ...ports], given);
  try {
    await untilStarted(dev);
    const env = { ...given, ...readExports(await readFile(join(directory, 'data', 'env'), 'utf8')) };
    return { lab: await addLab(directory, env), stop: dev.stop };
  } catch (error) {
    await dev.stop();
    throw error;
  }
}

async function addLab(directory: string, env: Environment): Promise<Lab> {
  const { DATABASE_URL: url = '', TEMPORAL_ADDRESS: temporalAddress = '', TEMPORAL_NAMESPACE: namespace = '' } = env;
  const path = join(directory, 'repository');
  await mkdir(path);
  const machines = await makeMachines(directory);
  await runProduct(['hypervisor', 'add', 'lab', '--kind', 'qmp', '--uri', `qmp://${machines}`], env);
  const added = await runProduct(['repository', 'add', 'store', '--path', path, '--json'], env);
  const { id } = JSON.parse(added) as { id: string };
  const opened = openDatabase({ connectionString: url }, () => undefined);
  const database = { ...opened, url, drop: opened.close }; // it goes with its server
  const config = readConfig(env);
  return openLab({ directory, config, database, temporalAddress, namespace, repository: { id, path } });
}

/** What `. FILE` in a shell would set. */
function readExports(text: string): Record<string, string> {
  return Object.fromEntries(
    [...text.matchAll(/^export (\w+)=(\S+)$/gm)].map(([, name = '', value = '']) => [name, value] as const),
  );
}
