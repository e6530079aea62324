import { execa } from 'execa';
import { afterAll, beforeAll, beforeEach, expect, inject, test, vi } from 'vitest';
import { Client, Connection } from '@temporalio/client';
import { randomUUID } from 'node:crypto';
import { runCLI } from '../../src/cli/run-cli.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { documentOf, recordTerminal, runCommand } from '../unit/cli/run-command.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import '../support/quiet.js';

const MiB = 2 ** 20;
let world: World;
let vm: StorageDaemon;

beforeAll(async () => {
  world = await createWorld('cli-backup', { withSearchAttributes: false });
  vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 64 * MiB },
    { key: 'data', sizeBytes: 32 * MiB },
  ]);
  await vm.write('root', 0, 8 * MiB, 1);
});
afterAll(() => world.close());

const useTemporal = (address: string, namespace: string) => {
  vi.stubEnv('TEMPORAL_ADDRESS', address);
  vi.stubEnv('TEMPORAL_NAMESPACE', namespace);
  vi.stubEnv('TEMPORAL_CONFIG_FILE', `${world.directory}/none.toml`);
};
beforeEach(() => {
  useTemporal(inject('temporalAddress'), world.namespace);
  return () => vi.unstubAllEnvs();
});

const env = () => ({ DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });
const backupvm = (...argv: string[]) => runCommand(argv, env());

test('setup creates the search attributes once', async () => {
  expect((await backupvm('setup')).stdout).toContain(
    'created BackupVMName, BackupRepository, BackupType, BackupStatus\n',
  );
  expect(documentOf(await backupvm('setup', '--json'))).toMatchObject({
    database: { migrationsApplied: 0 },
    temporal: { namespace: world.namespace, searchAttributesCreated: [], warnings: [] },
  });
});

test('backup shows the steps, each disk, and a closing table; the lists know of it', async () => {
  const { exitCode, stdout, stderr } = await backupvm('backup', 'web01');
  expect(stderr).toBe('');
  expect(exitCode).toBe(0);
  expect(stdout).toMatch(/^Backup of VM web01\n/);
  expect(stdout).toMatch(/Restore point [0-9a-f-]{36}, consistency: crash/);
  expect(stdout).toMatch(/DISK +TYPE +REASON +SIZE +CHANGED +WRITTEN +PATH/);
  expect(stdout).toMatch(
    /root {2}full {2}the first backup of this VM {2}64\.0 MiB +8\.0 MiB +8\.0 MiB {2}web01\/root\//,
  );

  expect((await backupvm('vm', 'list')).stdout).toMatch(
    /web01 +lab +running +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d in store +data +data +32\.0 MiB/,
  );
  expect((await backupvm('point', 'list')).stdout).toMatch(/web01 +store +.* full +crash +2 +96\.0 MiB/);
});

test('backup --json prints nothing but the result', async () => {
  await vm.write('data', 0, MiB, 2);
  const { exitCode, stdout, stderr } = await backupvm('backup', 'web01', '--disk', 'data', '--json');
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  expect(JSON.parse(stdout)).toMatchObject({
    workflowId: 'backup-vm/web01',
    consistency: 'crash',
    disks: [{ key: 'data', type: 'incremental', reason: 'parent_good', changedBytes: MiB }],
  } satisfies Partial<Omit<BackupVMResult, 'disks'>> & Record<string, unknown>);
});

test.each([
  [['nosuch'], 3, 'VMNotFound'],
  [['web01', '--repository', 'nope'], 3, 'RepositoryNotFound'],
  [['web01', '--disk', 'nope'], 3, 'DiskNotFound'],
  [['web01', '--quiesce', 'require'], 6, 'FreezeFailed'],
])('backup %j fails with the exit code of its reason', async (argv, exitCode, code) => {
  const outcome = await backupvm('backup', ...argv, '--json');
  expect(JSON.parse(outcome.stderr)).toMatchObject({ error: { code, exitCode } });
  expect(outcome).toMatchObject({ exitCode, stdout: '' });
});

test('without a worker it says so; Ctrl-C ends the watch and not the backup; a second start is refused', async () => {
  const namespace = inject('temporalNamespace'); // nobody works there
  useTemporal(inject('temporalAddress'), namespace);
  const name = `idle-${randomUUID()}`;
  const interrupt = new AbortController();
  const { terminal, written } = recordTerminal(env(), interrupt.signal);
  const watching = runCLI(['backup', name], terminal);
  await until('the notice', () => written.stdout.includes("no worker polls task queue 'backupvm'"));
  interrupt.abort();
  expect(await watching).toBe(130);
  expect(written.stderr).toContain(`the backup goes on as workflow 'backup-vm/${name}'`);
  expect(written.stderr).toContain(`temporal workflow cancel --workflow-id backup-vm/${name}`);

  expect(await backupvm('backup', name, '--detach')).toMatchObject({
    exitCode: 4,
    stderr: expect.stringContaining(`A backup of VM '${name}' is running already`) as string,
  });

  const connection = await Connection.connect({ address: inject('temporalAddress') });
  const handle = new Client({ connection, namespace }).workflow.getHandle(`backup-vm/${name}`);
  expect((await handle.describe()).status.name).toBe('RUNNING');
  await handle.terminate('end of the test');
  await connection.close();
});

test('a backup that somebody terminates ends the watch with a code of its own', async () => {
  const namespace = inject('temporalNamespace');
  useTemporal(inject('temporalAddress'), namespace);
  const name = `ended-${randomUUID()}`;
  const connection = await Connection.connect({ address: inject('temporalAddress') });
  const handle = new Client({ connection, namespace }).workflow.getHandle(`backup-vm/${name}`);
  const watching = backupvm('backup', name);
  await until('the workflow', () => handle.describe().then(Boolean, () => false));
  await handle.terminate('by hand');
  await connection.close();
  expect(await watching).toMatchObject({
    exitCode: 10,
    stderr: expect.stringContaining(
      `The workflow was terminated: 'backup-vm/${name}'; no restore point was made`,
    ) as string,
  });
});

test('a Temporal server that is not there is named by its address', async () => {
  useTemporal('127.0.0.1:1', 'default');
  const { exitCode, stdout, stderr } = await backupvm('setup');
  expect(stdout).toContain('is up to date'); // the database's part is done
  expect(stderr).toContain('Expected a Temporal server at 127.0.0.1:1');
  expect(exitCode).toBe(8);
});

test('a namespace that is not there is named', async () => {
  useTemporal(inject('temporalAddress'), 'nowhere');
  const { exitCode, stderr } = await backupvm('backup', 'web01');
  expect(stderr).toContain("namespace 'nowhere'");
  expect(exitCode).toBe(8);
});

test('a worker whose database is not there ends with a code, not in a hang', async () => {
  const { exitCode, stderr } = await execa(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', 'worker'], {
    reject: false,
    env: { ...env(), DATABASE_URL: 'postgres://127.0.0.1:1/none' },
    timeout: 60_000, // a hang is the failure that this test is for
  });
  expect(exitCode).toBe(8);
  expect(stderr).toContain('Expected Postgres at 127.0.0.1:1/none');
});
