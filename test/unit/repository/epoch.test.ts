import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { epochName, readEpoch, writeEpoch } from '../../../src/repository/epoch.js';

const registration = 'b949c3e7-0aea-4b53-86b0-c41d4a337641';
let root: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'backupvm-epoch-'));
});
afterEach(() => rm(root, { recursive: true }));

test('the epoch of a repository is a file next to its marker, replaced whole', async () => {
  expect(await readEpoch(root)).toBeUndefined();
  await writeEpoch(root, { epoch: 1, registration });
  await writeEpoch(root, { epoch: 2, registration });
  expect(await readEpoch(root)).toEqual({ epoch: 2, registration });
  expect(await readdir(root)).toEqual([epochName]);
});

test.each(['', '{', '{"format":1,"epoch":-1}', '{"format":2,"epoch":1}'])(
  'a damaged epoch file (%j) is an error, and says what writes it again',
  async (text) => {
    await writeFile(join(root, epochName), text);
    await expect(readEpoch(root)).rejects.toMatchObject({
      code: 'RepositoryUnusable',
      message: expect.stringContaining(`run 'backupvm repository import ${root}'`) as string,
    });
  },
);
