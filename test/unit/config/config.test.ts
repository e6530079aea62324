import { hostname } from 'node:os';
import { describe, expect, test } from 'vitest';
import { readConfig, readDatabaseConfig } from '../../../src/config/config.js';
import { BackupError } from '../../../src/domain/errors.js';

const DATABASE_URL = 'postgres://backup:hunter2@db1:6432/backups';

function problemsOf(env: Record<string, string>): string {
  try {
    readConfig({ BACKUPVM_HOST: 'kvm1', DATABASE_URL, ...env });
  } catch (error) {
    if (error instanceof BackupError && error.code === 'InvalidConfiguration') return error.message;
    throw error;
  }
  return '';
}

describe('readConfig', () => {
  test('needs to know the database only', () => {
    const config = readConfig({ BACKUPVM_HOST: 'kvm1', DATABASE_URL });
    expect(config).toEqual({
      host: 'kvm1',
      database: { pool: { connectionString: DATABASE_URL }, address: 'db1:6432/backups' },
      nbdPorts: { first: 10809, last: 10908 },
      scratchDir: '/var/lib/backupvm/scratch',
      runDir: '/run/backupvm',
      restoreDirs: [],
      stallTimeoutMs: 600_000,
      copySlots: 4,
      reconcileIntervalMs: 300_000,
      logLevel: 'info',
    });
  });

  test('takes every variable', () => {
    const env = {
      BACKUPVM_HOST: 'kvm-2.example.org',
      BACKUPVM_NBD_PORTS: '20000-20000',
      BACKUPVM_SCRATCH_DIR: '/scratch',
      BACKUPVM_RUN_DIR: '/tmp/run',
      BACKUPVM_RESTORE_DIRS: '/srv/restores/:/var/lib/libvirt//images',
      BACKUPVM_STALL_SECONDS: '60',
      BACKUPVM_COPY_SLOTS: '16',
      BACKUPVM_RECONCILE_SECONDS: '5',
      BACKUPVM_LOG_LEVEL: 'debug',
      DATABASE_URL: 'postgresql://db/backups',
    };
    expect(readConfig(env)).toEqual({
      host: 'kvm-2.example.org',
      database: { pool: { connectionString: env.DATABASE_URL }, address: 'db/backups' },
      nbdPorts: { first: 20000, last: 20000 },
      scratchDir: '/scratch',
      runDir: '/tmp/run',
      restoreDirs: ['/srv/restores', '/var/lib/libvirt/images'],
      stallTimeoutMs: 60_000,
      copySlots: 16,
      reconcileIntervalMs: 5_000,
      logLevel: 'debug',
    });
  });

  test('calls the host by its host name, and takes an empty variable for none', () => {
    expect(readConfig({ BACKUPVM_HOST: '', BACKUPVM_LOG_LEVEL: '', DATABASE_URL }).host).toBe(hostname());
  });

  test.each([
    ['BACKUPVM_HOST', 'kvm 1', "expected letters, digits, '.', '_' and '-', at most 100, found 'kvm 1'"],
    ['BACKUPVM_HOST', 'x'.repeat(101), "expected letters, digits, '.', '_' and '-', at most 100"],
    ['BACKUPVM_NBD_PORTS', '10809', 'expected FIRST-LAST within 1024-65535, FIRST not above LAST'],
    ['BACKUPVM_NBD_PORTS', '-', "FIRST not above LAST, found '-'"],
    ['BACKUPVM_NBD_PORTS', '20000-19999', "FIRST not above LAST, found '20000-19999'"],
    ['BACKUPVM_NBD_PORTS', '1023-1030', 'within 1024-65535'],
    ['BACKUPVM_NBD_PORTS', '65000-65536', 'within 1024-65535'],
    ['BACKUPVM_NBD_PORTS', 'first-last', 'within 1024-65535'],
    ['BACKUPVM_NBD_PORTS', '1e4-2e4', 'within 1024-65535'],
    ['BACKUPVM_NBD_PORTS', '10809-10908 ', 'within 1024-65535'],
    ['BACKUPVM_SCRATCH_DIR', 'scratch', "expected an absolute path, found 'scratch'"],
    ['BACKUPVM_RUN_DIR', './run', "expected an absolute path, found './run'"],
    [
      'BACKUPVM_RUN_DIR',
      `/${'r'.repeat(58)}`,
      `expected at most 58 bytes, since sockets lie in it, found 59: '/${'r'.repeat(58)}'`,
    ],
    ['BACKUPVM_RESTORE_DIRS', '/srv:restores', "expected an absolute path, found 'restores'"],
    ['BACKUPVM_RESTORE_DIRS', '/srv:', "expected an absolute path, found ''"],
    ['BACKUPVM_RESTORE_DIRS', '/srv/..', "expected directories that are made for restores, found '/srv/..'"],
    ['BACKUPVM_COPY_SLOTS', '0', "expected a whole number from 1 to 99999, found '0'"],
    ['BACKUPVM_COPY_SLOTS', '100000', 'expected a whole number from 1 to 99999'],
    ['BACKUPVM_STALL_SECONDS', '2.5', 'expected a whole number from 1 to 99999'],
    ['BACKUPVM_LOG_LEVEL', 'verbose', "expected one of trace, debug, info, warn, error, found 'verbose'"],
    [
      'DATABASE_URL',
      'db1/backups',
      'expected postgres://USER:PASSWORD@HOST:PORT/DATABASE, found something that is no URL',
    ],
    ['DATABASE_URL', 'mysql://backup:hunter2@db1/backups', 'expected it to begin with postgres://, found mysql:'],
  ])('names %s=%j', (name, value, problem) => {
    const message = problemsOf({ [name]: value });
    expect(message).toContain(`${name}: `);
    expect(message).toContain(problem);
    expect(message.split('\n')).toHaveLength(2);
  });

  test('names all problems at once, one a line', () => {
    const message = problemsOf({
      BACKUPVM_HOST: 'a/b',
      BACKUPVM_NBD_PORTS: '1-2',
      BACKUPVM_SCRATCH_DIR: 'a',
      BACKUPVM_RUN_DIR: 'b',
      BACKUPVM_COPY_SLOTS: 'four',
      BACKUPVM_LOG_LEVEL: 'loud',
      DATABASE_URL: '',
    });
    const [heading, ...problems] = message.split('\n');
    expect(heading).toBe('Bad configuration:');
    expect(problems.map((line) => /^ {2}(\w+): /.exec(line)?.[1]).sort()).toEqual([
      'BACKUPVM_COPY_SLOTS',
      'BACKUPVM_HOST',
      'BACKUPVM_LOG_LEVEL',
      'BACKUPVM_NBD_PORTS',
      'BACKUPVM_RUN_DIR',
      'BACKUPVM_SCRATCH_DIR',
      'DATABASE_URL',
    ]);
  });
});

describe('the database', () => {
  test.each([
    [{ PGHOST: 'db1' }, 'db1:5432/'],
    [{ PGHOST: 'db1', PGPORT: '6432', PGUSER: 'backup' }, 'db1:6432/backup'],
    [{ PGDATABASE: 'backups', PGUSER: 'backup', PGPASSWORD: 'hunter2' }, 'localhost:5432/backups'],
    [{ DATABASE_URL, PGHOST: 'other' }, 'db1:6432/backups'],
  ])('of %j is called %s', (env, address) => {
    expect(readDatabaseConfig(env).address).toBe(address);
  });

  test.each([[{}], [{ PGPASSWORD: 'hunter2' }], [{ PGHOST: '', DATABASE_URL: '' }]])(
    'is not guessed from %j',
    (env) => {
      expect(() => readDatabaseConfig(env)).toThrow(
        /^Bad configuration:\n {2}DATABASE_URL: expected .*; found neither$/,
      );
    },
  );

  test.each([
    'postgres://backup:hunter2@db1/backups',
    'postgres:backup:hunter2@db1/backups',
    'postgres://backup:hunter2@db1:port/backups',
    'postgres://backup:12/hunter2@db1/backups',
    'postgres://backup:12?hunter2@db1/backups',
    'postgres://backup:12#hunter2@db1/backups',
    'postgres://backup:hunter2@db1/backups?password=hunter2',
    'mysql://backup:hunter2@db1/backups',
    'backup:hunter2@db1',
    '//backup:hunter2@db1',
  ])('has no password in any message: %s', (url) => {
    let said: string;
    try {
      said = readDatabaseConfig({ DATABASE_URL: url }).address;
    } catch (error) {
      said = String(error);
    }
    expect(said).not.toMatch(/hunter2|:12/);
  });
});
