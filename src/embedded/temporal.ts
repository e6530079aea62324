import { access, constants, mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { Connection } from '@temporalio/client';
import { BackupError } from '../domain/errors.js';
import { assertPortFree, freePort } from './port.js';
import { logTail, startService, untilReady } from './service.js';

/** The Temporal CLI that set-up provides (scripts/setup.sh reads this line). Later ones cannot be built by `go install`. */
export const temporalCLIVersion = '1.5.1';

export interface TemporalServerOptions {
  cliPath: string;
  /** Where workflows are kept. */
  dbFilename: string;
  /** Default: any free one; so for `uiPort`. */
  port?: number;
  uiPort?: number;
  namespace: string;
  /** Name to type, such as `{ BackupVMName: 'Keyword' }`; registered before the server is ready. */
  searchAttributes: Record<string, string>;
}

export interface TemporalServer {
  address: string;
  uiUrl: string;
  /** Resolves when the server has ended, whoever ended it, with how. */
  ended: Promise<string>;
  stop: () => Promise<void>;
}

/**
 * Starts `temporal server start-dev` on 127.0.0.1 with its log beside the database file; a second start finds what the first has kept.
 * @throws BackupError InUse (a port), TemporalUnreachable with the end of the server's log
 */
export async function startTemporalServer(options: TemporalServerOptions): Promise<TemporalServer> {
  const port = options.port ?? (await freePort());
  const uiPort = options.uiPort ?? (await freePort());
  await assertPortFree(port, 'the Temporal server');
  await assertPortFree(uiPort, "Temporal's Web UI");
  const dbFilename = resolve(options.dbFilename);
  await mkdir(dirname(dbFilename), { recursive: true });
  const logFile = `${dbFilename}.log`;
  const attributes = Object.entries(options.searchAttributes);
  const server = await startService({
    program: options.cliPath,
    args: [
      ...['server', 'start-dev', '--ip=127.0.0.1', `--port=${port}`, `--ui-port=${uiPort}`],
      ...[`--db-filename=${dbFilename}`, `--namespace=${options.namespace}`, '--log-level=warn'],
      ...attributes.map(([name, type]) => `--search-attribute=${name}=${type}`),
    ],
    logFile,
    stopSignal: 'SIGTERM',
  });
  const address = `127.0.0.1:${port}`;
  try {
    const isReady = () => assertReady(address, options.namespace, Object.keys(options.searchAttributes));
    await untilReady(server, isReady, 60_000); // 1.5 s on an idle machine; a first read of a 250 MB program on a busy one
  } catch (cause) {
    const found = `${(cause as Error).message}; its log ends:\n${await logTail(logFile)}`;
    throw new BackupError('TemporalUnreachable', `Expected the Temporal server on ${address} to answer, but ${found}`, {
      cause,
    });
  }
  return { address, uiUrl: `http://127.0.0.1:${uiPort}`, ended: server.ended, stop: server.stop };
}

async function assertReady(address: string, namespace: string, searchAttributes: string[]): Promise<void> {
  const connection = await Connection.connect({ address, connectTimeout: '2s' }); // it is on this machine
  try {
    await connection.workflowService.describeNamespace({ namespace });
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
    const missing = searchAttributes.filter((name) => !(name in customAttributes));
    if (missing.length > 0) throw new Error(`search attributes not registered yet: ${missing.join(', ')}`);
  } finally {
    await connection.close();
  }
}

/**
 * The Temporal CLI: TEMPORAL_CLI_PATH, `temporal` on PATH, or the one that set-up has put into the user's cache.
 * @throws BackupError InvalidConfiguration (TEMPORAL_CLI_PATH is no program), ToolMissing (none of the three)
 */
export async function findTemporalCLI(env: NodeJS.ProcessEnv): Promise<string> {
  const given = env['TEMPORAL_CLI_PATH'];
  if (given) {
    if (await isExecutable(given)) return resolve(given);
    throw new BackupError('InvalidConfiguration', `Expected a program at TEMPORAL_CLI_PATH, found none at ${given}`);
  }
  const cached = join(cacheHome(env), 'backupvm', `temporal-${temporalCLIVersion}`);
  const onPath = (env['PATH'] ?? '').split(delimiter).map((directory) => resolve(directory || '.', 'temporal'));
  for (const candidate of [...onPath, cached]) {
    if (await isExecutable(candidate)) return candidate;
  }
  throw new BackupError(
    'ToolMissing',
    `Expected the Temporal CLI as 'temporal' on PATH or at ${cached}, found none; run 'bash scripts/setup.sh', or set TEMPORAL_CLI_PATH`,
  );
}

function cacheHome(env: NodeJS.ProcessEnv): string {
  return env['XDG_CACHE_HOME'] || join(env['HOME'] || homedir(), '.cache');
}

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
