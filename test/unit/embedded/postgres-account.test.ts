import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test as base } from 'vitest';
import { assertSearchable } from '../../../src/embedded/postgres-account.js';

const test = base.extend<{ root: string }>({
  root: async ({ task }, use) => {
    const root = await mkdtemp(join(tmpdir(), `backupvm-${task.id}-`));
    await mkdir(join(root, 'outer/inner'), { recursive: true });
    await chmod(root, 0o755);
    await use(root);
    await rm(root, { recursive: true });
  },
});
const stranger = { uid: 54_321, gid: 54_321 };

test('a directory that everyone may search is fine', async ({ root }) => {
  await expect(assertSearchable(join(root, 'outer/inner'), stranger)).resolves.toBeUndefined();
});

test('the outermost closed directory is named, and the way out', async ({ root }) => {
  await chmod(join(root, 'outer/inner'), 0o700);
  await chmod(join(root, 'outer'), 0o750);
  await expect(assertSearchable(join(root, 'outer/inner'), stranger)).rejects.toMatchObject({
    code: 'InvalidConfiguration',
    message: expect.stringContaining(`below ${join(root, 'outer')}, which is closed`) as string,
  });
});

test('the bits of the owner and of the group count for them', async ({ root }) => {
  await chmod(join(root, 'outer'), 0o710);
  const owner = { uid: process.getuid?.() ?? -1, gid: -1 };
  const group = { uid: -1, gid: process.getgid?.() ?? -1 };
  await expect(assertSearchable(join(root, 'outer'), owner)).resolves.toBeUndefined();
  await expect(assertSearchable(join(root, 'outer'), group)).resolves.toBeUndefined();
  await expect(assertSearchable(join(root, 'outer'), stranger)).rejects.toThrow('is closed');
});
