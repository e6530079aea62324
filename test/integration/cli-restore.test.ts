import { execa } from 'execa';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, inject, test, vi } from 'vitest';
import { until } from '../support/until.js';
import { expectContent, expectNoRestoreLeft, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { documentOf, runCommand } from '../unit/cli/run-command.js';

const MiB = 2 ** 20;
let world: World;
let held: string;
let pointId: string;

beforeAll(async () => {
  world = await createWorld('cli-restore');
  const vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 4 * MiB }]);
  await vm.write('root', 0, MiB, 1);
  pointId = (await world.backUp({ vm: 'web01' })).jobId;
  held = join(world.directory, 'held');
  await vm.read('root', held);
});
afterAll(() => world.close());
beforeEach(() => {
  vi.stubEnv('TEMPORAL_ADDRESS', inject('temporalAddress'));
  vi.stubEnv('TEMPORAL_NAMESPACE', world.namespace);
  vi.stubEnv('TEMPORAL_CONFIG_FILE', `${world.directory}/none.toml`);
  return () => vi.unstubAllEnvs();
});

const backupvm = (...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });

test('restore shows the steps, each disk, and a closing table with what was verified', async () => {
  const directory = await targetDirectory(world, 'shown');
  const { exitCode, stdout, stderr } = await backupvm('restore', 'web01', '--to', directory);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  expect(stdout).toMatch(/^Restore of VM web01\n/);
  expect(stdout).toContain(`Restored point ${pointId} of `);
  expect(stdout).toMatch(/DISK +FORMAT +SIZE +WRITTEN +VERIFIED +FILE/);
  expect(stdout).toMatch(/root +qcow2 +4\.0 MiB +1\.0 MiB +16 blocks +\/.*\/web01-root\.qcow2/);
  await expectNoRestoreLeft(world, directory, ['web01-root.qcow2']);

  const again = await backupvm('restore', 'web01', '--to', directory, '--json');
  expect(again.exitCode).toBe(4);
  expect(again.stdout).toBe('');
  expect(JSON.parse(again.stderr)).toMatchObject({ error: { code: 'AlreadyExists', exitCode: 4 } });
});

test('restore --json prints nothing but the result, of a point, a format and a disk that are named', async () => {
  const directory = await targetDirectory(world, 'json');
  const options = ['--point', pointId.slice(0, 8), '--format', 'raw', '--disk', 'root', '--to', directory];
  const { exitCode, stdout, stderr } = await backupvm('restore', ...options, '--json');
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  expect(JSON.parse(stdout)).toMatchObject({
    workflowId: expect.stringMatching(/^restore-vm\/[0-9a-f]{8}\/[0-9a-f]{8}$/) as string,
    pointId,
    vm: null,
    disks: [{ key: 'root', format: 'raw', verifiedBlocks: 16, differentBlocks: 0 }],
  });
  await expectContent({ path: join(directory, 'web01-root.raw'), format: 'raw' }, held, '');
});

test('restore --detach only starts it', async () => {
  const directory = await targetDirectory(world, 'detached');
  const at = new Date(Date.now() + 60_000).toISOString();
  const started = await backupvm('restore', 'web01', '--at', at, '--to', directory, '--detach', '--json');
  const { workflowId } = documentOf<{ workflowId: string }>(started);
  await world.client.workflow.getHandle(workflowId).result();
  await expectNoRestoreLeft(world, directory, ['web01-root.qcow2']);
});

test.each([
  [['restore', 'web01'], 'expected either --to or --in-place, found neither'],
  [['restore', 'web01', '--to', '/r', '--in-place'], 'found both'],
  [['restore', '--to', '/r'], `point: expected either 'point' or 'vm'`],
  [['restore', 'web01', '--as-vm', 'copy'], 'target.directory: expected the absolute path'],
  [['restore', 'web01', '--to', '/r', '--start'], `unknown field 'start' in target`],
  [['restore', 'web01', '--at', 'yesterday', '--to', '/r'], `Expected a time such as '2026-11-23 01:45'`],
  [['restore', 'web01', '--format', 'vmdk', '--to', 'r'], 'target.format'],
])('%j is refused before it starts', async (argv, message) => {
  const { exitCode, stderr } = await backupvm(...argv);
  expect(exitCode).toBe(2);
  expect(stderr).toContain(message);
});

test('the Temporal CLI starts it, too; its steps have names, and its current details a table', async () => {
  const directory = await targetDirectory(world, 'by-temporal');
  const temporal = async (...args: string[]) =>
    execa(inject('temporalCLIPath'), [...args, '--output', 'json'], {
      env: {
        ...{ TEMPORAL_ADDRESS: inject('temporalAddress'), TEMPORAL_NAMESPACE: world.namespace },
        ...{ PATH: process.env['PATH'], HOME: world.directory },
      },
      extendEnv: false,
    });
  const input = JSON.stringify({ vm: 'web01', target: { kind: 'files', directory } });
  await temporal(
    ...['workflow', 'start', '--type', 'RestoreVM', '--task-queue', 'backupvm'],
    ...['--workflow-id', 'restore-vm/web01', '--input', input],
  );
  const handle = world.client.workflow.getHandle('restore-vm/web01');
  await handle.result();
  const { stdout } = await temporal('workflow', 'metadata', '--workflow-id', 'restore-vm/web01');
  expect(stdout).toContain('**Restore of web01 as of ');
  expect(stdout).toContain(`| root | complete | 4.0 MiB | 1.0 MiB | ${directory}/web01-root.qcow2 |`);
  const { historyLength } = await handle.describe();
  expect(historyLength).toBeLessThan(60);
  await until('the file', async () => (await readFile(join(directory, 'web01-root.qcow2'))).length > 0);
});
