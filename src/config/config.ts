import { hostname } from 'node:os';
import { isAbsolute, normalize } from 'node:path';
import type pg from 'pg';
import { BackupError } from '../domain/errors.js';

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

/** What the environment says, read once. docs/configuration.md lists the variables. */
export interface Config {
  /** The name that this machine's task queues carry. */
  host: string;
  database: DatabaseConfig;
  /** Ports that qemu-nbd may listen on, on this host; both ends included. */
  nbdPorts: { first: number; last: number };
  /** For the hypervisor's scratch files while a snapshot is open: needs room, and must be reachable by QEMU's user. */
  scratchDir: string;
  /** For pid files, sockets and lists of extents; need not survive a reboot. */
  runDir: string;
  /** Where restores to files and to new VMs may write: these directories, and all below. Without any, only in place. */
  restoreDirs: string[];
  /** How long a copy may stand still before it is ended. */
  stallTimeoutMs: number;
  /** Copies at a time on this host. */
  copySlots: number;
  /** How often this host cleans up after runs that could not, and makes sure that it does. */
  reconcileIntervalMs: number;
  logLevel: LogLevel;
}

export interface DatabaseConfig {
  pool: pg.PoolConfig;
  /** Host, port and database for messages: no password. */
  address: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** @throws BackupError InvalidConfiguration, which names every problem at once */
export function readConfig(env: Environment): Config {
  const problems: string[] = [];
  const config: Config = {
    host: env['BACKUPVM_HOST'] || hostname(),
    database: readDatabase(env, problems),
    nbdPorts: readPorts(env['BACKUPVM_NBD_PORTS'] || '10809-10908', problems),
    scratchDir: readDirectory(
      'BACKUPVM_SCRATCH_DIR',
      env['BACKUPVM_SCRATCH_DIR'] || '/var/lib/backupvm/scratch',
      problems,
    ),
    runDir: readRunDirectory('BACKUPVM_RUN_DIR', env['BACKUPVM_RUN_DIR'] || '/run/backupvm', problems),
    restoreDirs: readDirectories('BACKUPVM_RESTORE_DIRS', env['BACKUPVM_RESTORE_DIRS'] || '', problems),
    stallTimeoutMs: 1000 * readCount('BACKUPVM_STALL_SECONDS', env['BACKUPVM_STALL_SECONDS'] || '600', problems),
    copySlots: readCount('BACKUPVM_COPY_SLOTS', env['BACKUPVM_COPY_SLOTS'] || '4', problems),
    reconcileIntervalMs:
      1000 * readCount('BACKUPVM_RECONCILE_SECONDS', env['BACKUPVM_RECONCILE_SECONDS'] || '300', problems),
    logLevel: readLogLevel(env['BACKUPVM_LOG_LEVEL'] || 'info', problems),
  };
  if (!/^[A-Za-z0-9._-]{1,100}$/.test(config.host)) {
    problems.push(`BACKUPVM_HOST: expected letters, digits, '.', '_' and '-', at most 100, found '${config.host}'`);
  }
  throwProblems(problems);
  return config;
}

/** Only the part that commands without a worker need. @throws BackupError InvalidConfiguration */
export function readDatabaseConfig(env: Environment): DatabaseConfig {
  const problems: string[] = [];
  const database = readDatabase(env, problems);
  throwProblems(problems);
  return database;
}

function throwProblems(problems: readonly string[]): void {
  if (problems.length > 0)
    throw new BackupError('InvalidConfiguration', `Bad configuration:\n  ${problems.join('\n  ')}`);
}

function readDatabase(env: Environment, problems: string[]): DatabaseConfig {
  const url = env['DATABASE_URL'];
  if (!url) {
    if (!Object.keys(env).some((name) => /^PG(HOST|HOSTADDR|DATABASE|USER|PORT|SERVICE)$/.test(name) && env[name])) {
      problems.push(
        'DATABASE_URL: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, or PGHOST, PGDATABASE and the like; found neither',
      );
    }
    const address = `${env['PGHOST'] || 'localhost'}:${env['PGPORT'] || '5432'}/${env['PGDATABASE'] || env['PGUSER'] || ''}`;
    return { pool: {}, address }; // pg itself reads PG*
  }
  try {
    const { protocol, host, pathname } = new URL(url);
    if (!/^postgres(ql)?:\/\//i.test(url))
      problems.push(`DATABASE_URL: expected it to begin with postgres://, found ${protocol}`);
    // Otherwise a part of the password would count as host or path, and stand in messages.
    else if (/^\w+:\/\/.*[/?#].*@/.test(url))
      problems.push("DATABASE_URL: expected '/', '?', '#' and '@' in the password as %2F, %3F, %23 and %40");
    return { pool: { connectionString: url }, address: `${host}${pathname}` };
  } catch {
    problems.push('DATABASE_URL: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, found something that is no URL');
    return { pool: {}, address: '' };
  }
}

function readPorts(text: string, problems: string[]): { first: number; last: number } {
  const match = /^(\d{1,5})-(\d{1,5})$/.exec(text);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || first < 1024 || last > 65535 || first > last) {
    problems.push(`BACKUPVM_NBD_PORTS: expected FIRST-LAST within 1024-65535, FIRST not above LAST, found '${text}'`);
  }
  return { first, last };
}

function readDirectory(name: string, text: string, problems: string[]): string {
  if (!isAbsolute(text)) problems.push(`${name}: expected an absolute path, found '${text}'`);
  return text;
}

/** Directories with a colon between them, as in PATH. */
function readDirectories(name: string, text: string, problems: string[]): string[] {
  if (text === '') return [];
  return text.split(':').map((directory) => {
    readDirectory(name, directory, problems);
    const path = normalize(directory).replace(/(?<=.)\/$/, '');
    if (path === '/') problems.push(`${name}: expected directories that are made for restores, found '${text}'`);
    return path;
  });
}

/** Sockets lie in it, whose paths take at most 107 bytes on Linux. The longest is `/copies/`, a UUID and `/sock`: 49. */
const longestRunDirBytes = 107 - 49;

function readRunDirectory(name: string, text: string, problems: string[]): string {
  const bytes = Buffer.byteLength(text);
  if (bytes > longestRunDirBytes) {
    problems.push(
      `${name}: expected at most ${longestRunDirBytes} bytes, since sockets lie in it, found ${bytes}: '${text}'`,
    );
  }
  return readDirectory(name, text, problems);
}

function readCount(name: string, text: string, problems: string[]): number {
  if (!/^[1-9]\d{0,4}$/.test(text)) problems.push(`${name}: expected a whole number from 1 to 99999, found '${text}'`);
  return Number(text);
}

function readLogLevel(text: string, problems: string[]): LogLevel {
  const level = logLevels.find((known) => known === text);
  if (!level) problems.push(`BACKUPVM_LOG_LEVEL: expected one of ${logLevels.join(', ')}, found '${text}'`);
  return level ?? 'info';
}
