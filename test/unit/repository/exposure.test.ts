import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { describeExposure } from '../../../src/repository/exposure.js';

let directory: string;
let root: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-exposure-'));
  await chmod(directory, 0o755);
  root = join(directory, 'repository');
  await mkdir(root);
  await writeFile(join(root, 'disk.qcow2'), '');
});
afterEach(() => rm(directory, { recursive: true }));

test.each([
  ['closed', 0o700, 0o644, null],
  ['that others may list', 0o755, 0o600, 'has mode 755; run'],
  ['that a group may read', 0o750, 0o600, 'has mode 750; run'],
  ['that others may pass, with closed files', 0o711, 0o600, null],
  ['that others may pass, with files that they may read', 0o711, 0o644, 'has mode 711, and 1 of its files are open'],
  ['that others may write to', 0o1733, 0o600, 'has mode 1733'],
])('a repository %s', async (_name, rootMode, fileMode, expected) => {
  await chmod(root, rootMode);
  await chmod(join(root, 'disk.qcow2'), fileMode);
  const found = await describeExposure(root, ['disk.qcow2', 'removed.qcow2']);
  expect(found).toEqual(expected && expect.stringContaining(expected));
});

test('a repository below a directory that others cannot pass is closed', async () => {
  await chmod(root, 0o755);
  await chmod(directory, 0o700);
  expect(await describeExposure(root)).toBeNull();
});
