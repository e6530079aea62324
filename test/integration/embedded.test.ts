import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import pg from 'pg';
import { expect, inject, vi } from 'vitest';
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js';
import { startTemporalServer } from '../../src/embedded/temporal.js';
import { createTestDatabase, test as base } from '../support/database.js';

const test = base.extend<{ directory: string }>({
  directory: async ({ task }, use) => {
    const directory = await mkdtemp(join(tmpdir(), `backupvm-${task.id}-`));
    await chmod(directory, 0o755);
    await use(directory);
    await rm(directory, { recursive: true });
  },
});

const query = async (url: string, statement: string): Promise<unknown[]> => {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query<Record<string, unknown>>(statement);
  await client.end();
  return rows;
};

test('each test has a migrated database of its own', async ({ database, pool }) => {
  const other = await createTestDatabase('another one');
  await pool.query('create table only_here (id int)');
  const { rows } = await other.pool.query(
    "select to_regclass('only_here') as here, to_regclass('backup_jobs') as jobs",
  );
  expect(rows).toEqual([{ here: null, jobs: 'backup_jobs' }]);
  expect(other.url).not.toBe(database.url);
  await other.drop();
});

test('a durable Postgres keeps its data and its password over a restart', async ({ directory }) => {
  const first = await startEmbeddedPostgres({ dataDir: directory, durable: true });
  await query(first.url, 'create table kept as select 42 as answer');
  expect(await query(first.url, 'show fsync')).toEqual([{ fsync: 'on' }]);
  await first.stop();
  expect(await first.ended).toBe('exit code 0');

  const second = await startEmbeddedPostgres({ dataDir: directory, durable: true });
  expect(await query(second.url, 'select answer from kept')).toEqual([{ answer: 42 }]);
  await second.stop();
});

test('a throw-away Postgres leaves no files', async ({ directory }) => {
  const { url, stop } = await startEmbeddedPostgres({ dataDir: join(directory, 'new'), durable: false });
  expect(await query(url, 'select current_database() as name')).toEqual([{ name: 'backupvm' }]);
  await stop();
  expect(await readdir(join(directory, 'new'))).toEqual([]);
});

test('a second Postgres on the same data is refused by name, and the first goes on', async ({ directory }) => {
  const first = await startEmbeddedPostgres({ dataDir: directory, durable: true });
  await expect(startEmbeddedPostgres({ dataDir: directory, durable: true })).rejects.toMatchObject({
    code: 'InUse',
    message: expect.stringContaining(join(directory, 'cluster')) as string,
  });
  expect(await query(first.url, 'select 1 as one')).toEqual([{ one: 1 }]);
  await first.stop();
});

test('Postgres ends with the program that started it, even when that is killed, and starts again', async ({
  directory,
}) => {
  const url = await startAndKill(directory);
  await vi.waitFor(() => expect(query(url, 'select 1')).rejects.toThrow('ECONNREFUSED'), { timeout: 20_000 });
  const again = await startEmbeddedPostgres({ dataDir: directory, durable: true });
  await again.stop();
});

test('a lock whose process id went to another program does not keep Postgres from starting', async ({ directory }) => {
  const first = await startEmbeddedPostgres({ dataDir: directory, durable: true });
  const lockFile = join(directory, 'cluster', 'postmaster.pid');
  const lock = await readFile(lockFile, 'utf8');
  await first.stop();
  await writeFile(lockFile, lock.replace(/^\d+/, String(process.ppid)));
  const second = await startEmbeddedPostgres({ dataDir: directory, durable: true });
  await second.stop();
  expect(existsSync(lockFile)).toBe(false);
});

test('a port that is taken is an error that names it, not a talk with a stranger', async ({ directory }) => {
  const port = Number(new URL(inject('templateDatabaseUrl')).port);
  const taken = { code: 'InUse', message: expect.stringContaining(`port ${port} on 127.0.0.1`) as string };
  await expect(startEmbeddedPostgres({ dataDir: directory, durable: false, port })).rejects.toMatchObject(taken);
  const temporal = { cliPath: inject('temporalCLIPath'), namespace: 'n', searchAttributes: {} };
  const dbFilename = join(directory, 'temporal.db');
  await expect(startTemporalServer({ ...temporal, dbFilename, port })).rejects.toMatchObject(taken);
});

test.runIf(process.getuid?.() === 0)('root is told which directory Postgres cannot reach', async ({ directory }) => {
  const closed = join(directory, 'closed');
  await mkdir(closed, { mode: 0o700 });
  await expect(startEmbeddedPostgres({ dataDir: join(closed, 'data'), durable: true })).rejects.toMatchObject({
    code: 'InvalidConfiguration',
    message: expect.stringContaining(`below ${closed}, which is closed`) as string,
  });
});

test('a Temporal server has its search attributes, and keeps workflows over a restart', async ({ directory }) => {
  const options = {
    cliPath: inject('temporalCLIPath'),
    dbFilename: join(directory, 'temporal.db'),
    namespace: 'kept',
    searchAttributes: { BackupVMName: 'Keyword' },
  };
  const first = await startTemporalServer(options);
  await withClient(first.address, 'kept', (client) =>
    client.workflow.start('Anything', { taskQueue: 'nobody', workflowId: 'kept-workflow', args: [] }),
  );
  await first.stop();

  const second = await startTemporalServer(options);
  const found = await withClient(second.address, 'kept', (client) =>
    client.workflow.getHandle('kept-workflow').describe(),
  );
  expect(found.status.name).toBe('RUNNING');
  expect((await fetch(second.uiUrl)).status).toBe(200);
  await second.stop();
});

test('a Temporal server that cannot start is an error that carries its log', async ({ directory }) => {
  const options = { cliPath: inject('temporalCLIPath'), namespace: 'n', searchAttributes: { BackupVMName: 'Colour' } };
  await expect(startTemporalServer({ ...options, dbFilename: join(directory, 'temporal.db') })).rejects.toMatchObject({
    code: 'TemporalUnreachable',
    message: expect.stringMatching(/ended with exit code 1.*Colour/s) as string,
  });
});

async function withClient<T>(address: string, namespace: string, use: (client: Client) => Promise<T>): Promise<T> {
  const connection = await Connection.connect({ address });
  try {
    return await use(new Client({ connection, namespace }));
  } finally {
    await connection.close();
  }
}

/** Starts a durable Postgres in a program of its own, and kills that program with -9. */
async function startAndKill(directory: string): Promise<string> {
  const postgres = new URL('../../src/embedded/postgres.ts', import.meta.url).href;
  const program = `
    const { startEmbeddedPostgres } = await import('${postgres}');
    const { url } = await startEmbeddedPostgres({ dataDir: process.argv[1], durable: true });
    process.stdout.write(url);`;
  const args = ['--import', 'tsx', '--input-type=module', '-e', program, directory];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const [url] = (await once(child.stdout, 'data')) as [Buffer];
  child.kill('SIGKILL');
  await once(child, 'exit');
  return url.toString();
}
