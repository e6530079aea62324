import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { closeJob } from '../../src/db/jobs.js';
import { runOrThrow } from '../../src/process/run.js';
import { withQMP } from '../../src/sources/qmp/client.js';
import { readGraph } from '../../src/sources/qmp/nodes.js';
import { expectSameContent } from '../support/content.js';
import { startJob } from '../support/job.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';
import { runCommand } from '../unit/cli/run-command.js';

const MiB = 2 ** 20;
let world: World;
let vm: StorageDaemon;

beforeAll(async () => {
  world = await createWorld('forget');
  vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 2 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  await world.backUp({ vm: 'web01' });
  vi.stubEnv('TEMPORAL_ADDRESS', world.temporalAddress);
  vi.stubEnv('TEMPORAL_NAMESPACE', world.namespace);
  vi.stubEnv('TEMPORAL_CONFIG_FILE', '/nonexistent.toml');
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(async () => {
  vi.unstubAllEnvs();
  await world.close();
});

const machine = () => join(world.directory, 'machines', 'web01.qmp');
const bitmaps = async () =>
  (await withQMP(machine(), AbortSignal.timeout(30_000), readGraph)).nodes.flatMap((node) =>
    node['dirty-bitmaps'].map(({ name }) => name),
  );
const forget = (...argv: string[]) =>
  runCommand(['vm', 'forget', ...argv], { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });
const planOf = async () => (await world.backUp({ vm: 'web01' })).disks.map(({ type, reason }) => `${type}: ${reason}`);

test('is refused while a backup of the VM runs, and nothing is forgotten', async () => {
  const { db, pool } = world.database;
  const { rows } = await pool.query<{ id: string }>('select id from vm_backup_contexts');
  const running = await startJob(db, { contextId: rows[0]?.id ?? '' });
  const before = await bitmaps();
  const { exitCode, stderr } = await forget('web01', '--json');
  expect([exitCode, stderr]).toEqual([4, expect.stringContaining('BackupAlreadyRunning')]);
  expect(await bitmaps()).toEqual(before);
  await closeJob(db, running.id, 'failed', 'a test');
  await pool.query(`update backup_jobs set clean_up = 'done'`);
  expect(await planOf()).toEqual(['incremental: parent_good']);
});

test('a VM that is not known is VMNotFound, under QMP also one that does not run, and its change ids stay', async () => {
  expect((await forget('nobody', '--json')).stderr).toContain('VMNotFound');
  await vm.stop();
  expect((await forget('web01', '--json')).stderr).toContain('VMNotFound');
  await vm.restart();
  expect(await planOf()).toEqual(['incremental: parent_good']);
});

test('removes every bitmap of ours, also one that no row knows; the next backup is a full that says why', async () => {
  const stray = 'backupvm-of-a-lost-database-01234567';
  await withQMP(machine(), AbortSignal.timeout(30_000), async (qmp) => {
    await qmp.execute('block-dirty-bitmap-add', { node: 'root', name: stray, persistent: true });
    await qmp.execute('block-dirty-bitmap-add', { node: 'root', name: 'nightly', persistent: true });
  });
  const { exitCode, stdout } = await forget('web01');
  expect(exitCode).toBe(0);
  expect(stdout).toContain('2 change id(s) removed');
  expect(stdout).toContain('backupvm-of-a-lost-database');
  expect(await bitmaps()).toEqual(['nightly']);
  await vm.zero('root', 0, 64 * 1024);
  const result = await world.backUp({ vm: 'web01' });
  expect(result.disks).toMatchObject([{ type: 'full', reason: 'change_ids_forgotten' }]);
  await expectSameContent(world, vm, result);
  expect(await planOf()).toEqual(['incremental: parent_good']);
});

test('the first backup of a VM whose images have internal snapshots says what becomes of them', async () => {
  const other = await world.startVM('snapped', [{ key: 'root', sizeBytes: MiB }]);
  await other.stop();
  await runOrThrow('qemu-img', ['snapshot', '-c', 'evening', other.imageOf('root')], { timeoutMs: 10_000 });
  await other.restart();
  const first = await world.backUp({ vm: 'snapped' });
  expect(first.warnings).toEqual([expect.stringMatching(/internal snapshots \('evening'\).*backupvm vm forget/)]);
  expect((await world.backUp({ vm: 'snapped' })).warnings).toEqual([]);
  expect((await forget('snapped', '--json')).stdout).toContain('"forgotten"');
});
