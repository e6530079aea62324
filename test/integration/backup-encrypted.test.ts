import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readPoints } from '../../src/repository/read-points.js';
import { findLeftovers } from '../support/end-state.js';
import { expectContent, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;
const keys = ['container', 'layered', 'plain', 'qcow2'];
let world: World;
const held = (key: string) => join(world.directory, `held-${key}`);

beforeAll(async () => {
  world = await createWorld('backup-encrypted');
  const vm = await world.startVM('vault', [
    { key: 'plain', sizeBytes: MiB },
    { key: 'qcow2', sizeBytes: MiB, format: 'luks-qcow2' },
    { key: 'container', sizeBytes: MiB, format: 'luks' },
    { key: 'layered', sizeBytes: MiB, format: 'raw-on-luks' },
  ]);
  for (const key of keys) {
    await vm.write(key, 0, MiB / 2, 0x53);
    await vm.read(key, held(key));
    const isClear = (await readFile(vm.imageOf(key))).includes(Buffer.alloc(4096, 0x53));
    expect(isClear, key).toBe(key === 'plain');
  }
});
afterAll(() => world.close());

const warningsOf = async (jobId: string) =>
  (await world.database.pool.query<{ warnings: string[] }>('select warnings from backup_jobs where id = $1', [jobId]))
    .rows[0]?.warnings;

test('an encrypted disk, however it is encrypted, is refused by name before anything is made', async () => {
  const refusal = await world.backUp({ vm: 'vault' }).then(
    () => expect.fail('expected a refusal'),
    (error: unknown) => (error as { cause: { type: string; message: string } }).cause,
  );
  expect(refusal.type).toBe('DiskEncrypted');
  for (const key of keys) expect(refusal.message.includes(`'${key}'`), key).toBe(key !== 'plain');
  expect((await world.database.pool.query('select 1 from backup_jobs')).rows).toEqual([]);
  expect(await findLeftovers(world)).toMatchObject({ strayFiles: [], source: [], scratch: [] });
});

test('a disk next to it that is not is backed up without a word', async () => {
  const { jobId } = await world.backUp({ vm: 'vault', disks: ['plain'] });
  expect(await warningsOf(jobId)).toEqual([]);
});

test('with allowPlaintext the point and the manifest say which disks lie in clear, and so does a restore', async () => {
  const { jobId } = await world.backUp({ vm: 'vault', allowPlaintext: true });
  const warnings = await warningsOf(jobId);
  expect(warnings).toHaveLength(3);
  for (const warning of warnings ?? []) expect(warning).toMatch(/^disk '(qcow2|container|layered)' is encrypted/);
  const { points } = await readPoints(world.repository.path, world.repository.id, AbortSignal.timeout(60_000));
  const disks = points.find(({ manifest }) => manifest.jobId === jobId)?.manifest.disks ?? [];
  expect(disks.map(({ key, wasEncrypted }) => [key, wasEncrypted]).sort()).toEqual(
    keys.map((key) => [key, key !== 'plain']),
  );

  const directory = await targetDirectory(world, 'out');
  const restored = await restoreVM(world, { point: jobId, target: { kind: 'files', directory } });
  expect(restored.warnings).toHaveLength(3);
  for (const disk of restored.disks) await expectContent(disk, held(disk.key), join(world.directory, 'raw'));
});
