import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import { flip, whileHarmed } from '../support/harm.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { createWorld, type World } from '../support/world.js';
import { documentOf, runCommand } from '../unit/cli/run-command.js';

const MiB = 1024 * 1024;

let world: World;
let vm: StorageDaemon;
let point: BackupVMResult;
beforeAll(async () => {
  world = await createWorld('cli-verify');
  vi.stubEnv('TEMPORAL_ADDRESS', world.temporalAddress);
  vi.stubEnv('TEMPORAL_NAMESPACE', world.namespace);
  vi.stubEnv('TEMPORAL_CONFIG_FILE', `${world.directory}/none.toml`);
  vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 4 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  point = await world.backUp({ vm: 'web01' });
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await world.close();
});

const backupvm = (...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });

test('verify says that a good point is good, by every level', async () => {
  for (const level of ['structure', 'checksum', 'content']) {
    const { exitCode, stdout, stderr } = await backupvm('verify', 'web01', '--level', level);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
    expect(stdout).toMatch(/^Verification of VM web01\n/);
    expect(stdout).toContain(`1 restore point(s) of VM web01 in store, 1 file(s), level ${level}: no damage was found`);
    expect(stdout).toMatch(level === 'content' ? / 16 {2}good\n/ : /KiB|MiB {10,}good\n/);
  }
});

test('damage is printed, ends the command with exit code 6, and is shown wherever the point is', async () => {
  const { jobId } = point;
  const path = point.disks[0]?.path ?? '';
  await whileHarmed(
    join(world.repository.path, path),
    (file) => flip(file, 4),
    async () => {
      const { exitCode, stdout, stderr } = await backupvm('verify', '--point', jobId.slice(0, 10), '--json');
      expect(exitCode).toBe(6);
      expect(JSON.parse(stdout)).toMatchObject({ damaged: true, points: [{ pointId: jobId, damaged: true }] });
      expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'PointDamaged', exitCode: 6 } });
      const text = await backupvm('verify', 'web01', '--all');
      expect(text.exitCode).toBe(6);
      expect(text.stdout).toContain('damage was found');
      expect(text.stderr).toContain(`found 1 damaged: ${path} is not as it was sealed`);
    },
  );
  expect((await backupvm('point', 'list')).stdout).toMatch(/ damaged\n$/);
  expect((await backupvm('job', 'list')).stdout).toContain('complete, damaged');
  expect((await backupvm('vm', 'list')).stdout).toMatch(/ in store, damaged /);
  for (const subject of ['point', 'job']) {
    expect((await backupvm(subject, 'show', jobId)).stdout).toMatch(/Damage: +web01\/root\/.* is not as it was sealed/);
    const [listed] = Object.values(documentOf<object>(await backupvm(subject, 'list', '--json'))) as object[][];
    expect(listed).toMatchObject([{ id: jobId, damaged: true }]);
    const shown = documentOf<Record<string, object>>(await backupvm(subject, 'show', jobId, '--json'));
    expect(shown[subject]).toMatchObject({ disks: [{ damage: expect.stringContaining(path) as string }] });
  }
  const { exitCode } = await backupvm('verify', 'web01', '--level', 'content');
  expect(exitCode).toBe(0);
  expect((await backupvm('point', 'list')).stdout).not.toContain('damaged');
});

test('what a merge left is good, by every level', async () => {
  await vm.write('root', MiB / 2, MiB, 0x22);
  const { jobId } = await world.backUp({ vm: 'web01' });
  await vm.zero('root', MiB, MiB);
  await world.backUp({ vm: 'web01' });
  for (const id of [point.jobId, jobId]) {
    const deleted = await backupvm('delete', '--point', id, '--descendants', 'merge', '--yes');
    expect(deleted).toMatchObject({ exitCode: 0, stderr: '' });
  }
  const { exitCode, stdout, stderr } = await backupvm('verify', 'web01', '--all', '--level', 'content', '--json');
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  expect(JSON.parse(stdout)).toMatchObject({
    damaged: false,
    fileCount: 1,
    files: [{ comparedBlocks: 16, damage: null }],
  });
});

test('what cannot be meant is refused', async () => {
  const refusals = [
    { argv: [], exitCode: 2, words: `expected either 'point' or 'vm'` },
    { argv: ['web01', '--point', 'a'], exitCode: 2, words: `expected either 'point' or 'vm'` },
    { argv: ['web01', '--level', 'deep'], exitCode: 2, words: `found "deep"` },
    { argv: ['nobody'], exitCode: 3, words: `Expected a restore point of VM 'nobody', found none` },
    { argv: ['--point', 'ffff'], exitCode: 3, words: `Expected one restore point with the id 'ffff', found none` },
  ];
  for (const { argv, exitCode, words } of refusals) {
    const refused = await backupvm('verify', ...argv);
    expect(refused).toMatchObject({ exitCode });
    expect(refused.stderr).toContain(words);
  }
});
