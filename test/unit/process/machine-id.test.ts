import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test as base } from 'vitest';
import { readMachineId, type MachineIdFiles } from '../../../src/process/machine-id.js';

const id = '3d1219c7c4c5404aaa1f6d2a48adfda4';

const test = base.extend<{ files: MachineIdFiles & { folder: string } }>({
  files: async ({ task }, use) => {
    const directory = await mkdtemp(join(tmpdir(), `backupvm-machine-id-${task.id}-`));
    const folder = join(directory, 'state');
    await use({ system: join(directory, 'system'), own: join(folder, 'machine-id'), folder });
    await rm(directory, { recursive: true });
  },
});

test('the id of the system counts, and none is made', async ({ files }) => {
  await writeFile(files.system, `${id}\n`);
  expect(readMachineId(files)).toBe(id);
  await expect(readdir(files.folder)).rejects.toThrow('ENOENT');
});

test.each([[undefined], [''], ['uninitialized\n'], ['0'.repeat(32)], [id.slice(1)], [`${id}00`], [id.toUpperCase()]])(
  'without an id of the system (%j) one is made once, and kept',
  async (text) => {
    const directory = await mkdtemp(join(tmpdir(), 'backupvm-machine-id-'));
    const files = { system: join(directory, 'system'), own: join(directory, 'state', 'machine-id') };
    if (text !== undefined) await writeFile(files.system, text);
    const made = readMachineId(files);
    expect(made).toMatch(/^[0-9a-f]{32}$/);
    expect(readMachineId(files)).toBe(made);
    expect(await readFile(files.own, 'latin1')).toBe(`${made}\n`);
    expect(await readdir(join(directory, 'state'))).toEqual(['machine-id']);
    await rm(directory, { recursive: true });
  },
);

test('an id that cannot be written is an error that names both files', async ({ files }) => {
  await writeFile(files.folder, 'no directory');
  expect(() => readMachineId(files)).toThrow(
    expect.objectContaining({
      code: 'InvalidConfiguration',
      message: expect.stringMatching(`${files.system}.*${files.own}`) as string,
    }),
  );
});

test('a file of ours that holds no id is left as it is, and named', async ({ files }) => {
  readMachineId(files);
  await writeFile(files.own, 'broken');
  expect(() => readMachineId(files)).toThrow(/machine-id: the file is there, and holds no such id/);
  expect(await readFile(files.own, 'latin1')).toBe('broken');
});
