import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { expectContent, expectNoRestoreLeft, refusalOf, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;
let world: World;
let held: string;
let damagedPath: string;

beforeAll(async () => {
  world = await createWorld('restore-tool-killed');
  const vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 2 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  held = join(world.directory, 'held');
  await vm.read('root', held);
  const { disks } = await world.backUp({ vm: 'web01' });
  damagedPath = join(world.repository.path, disks[0]?.path ?? '');
});
afterEach(() => vi.unstubAllEnvs());
afterAll(() => world.close());

/** From now on each `qemu-img measure` is killed as it begins, as by the kernel when memory runs out, as often as told. */
async function killMeasure(times: number): Promise<{ left: () => Promise<number> }> {
  const directory = join(world.directory, `killer-${randomUUID()}`);
  await mkdir(directory);
  for (let n = 0; n < times; n += 1) await writeFile(join(directory, `bullet-${n}`), '');
  const script = `#!/bin/sh
for bullet in ${directory}/bullet-*; do [ "$1" = measure ] && rm "$bullet" 2>/dev/null && kill -KILL $$; done
PATH='${process.env['PATH'] ?? ''}' exec qemu-img "$@"
`;
  await writeFile(join(directory, 'qemu-img'), script);
  await chmod(join(directory, 'qemu-img'), 0o755);
  vi.stubEnv('PATH', `${directory}:${process.env['PATH'] ?? ''}`);
  return { left: async () => (await readdir(directory)).filter((name) => name.startsWith('bullet-')).length };
}

test('a qemu-img that is killed as it measures a good point is run again: the point is not called damaged', async () => {
  const directory = await targetDirectory(world, 'out');
  const killer = await killMeasure(2);
  const { disks } = await restoreVM(world, { vm: 'web01', target: { kind: 'files', directory } });
  expect(await killer.left()).toBe(0);
  for (const disk of disks) await expectContent(disk, held, join(world.directory, 'raw'));
  await expectNoRestoreLeft(world, directory, ['web01-root.qcow2']);
});

test('a qemu-img that says itself that it cannot read the point is believed at once', async () => {
  const directory = await targetDirectory(world, 'out-damaged');
  await rm(damagedPath);
  const refusal = await refusalOf(world, { vm: 'web01', target: { kind: 'files', directory } });
  expect(refusal).toMatchObject({ type: 'PointDamaged' });
  await expectNoRestoreLeft(world, directory);
});
