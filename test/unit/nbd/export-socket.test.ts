import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { exportPidFile, exportSocket, removeExportFiles, requireFreeNumber } from '../../../src/nbd/export-socket.js';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-exports-'));
});
afterEach(() => rm(directory, { recursive: true }));

test('a number under which an unknown process listens is taken, the numbers around it are free', async () => {
  const stranger = createServer().listen(exportSocket(exportPidFile(directory, 10_810, 'theirs')));
  await once(stranger, 'listening');
  try {
    await expect(requireFreeNumber(directory, 10_810)).rejects.toMatchObject({
      code: 'PortTaken',
      details: { port: 10_810 },
    });
    for (const port of [1081, 10_809, 10_811]) await requireFreeNumber(directory, port);
  } finally {
    stranger.close();
  }
});

test('a socket on which nobody listens takes no number', async () => {
  await writeFile(exportSocket(exportPidFile(directory, 10_810, 'dead')), '');
  await requireFreeNumber(directory, 10_810);
});

test('a late clean-up leaves the files of the next attempt under the same number', async () => {
  const [first, second] = [exportPidFile(directory, 10_810, 'first'), exportPidFile(directory, 10_810, 'second')];
  for (const file of [first, exportSocket(first), second, exportSocket(second)]) await writeFile(file, '');
  await removeExportFiles(first);
  await removeExportFiles(first);
  expect((await readdir(directory)).sort()).toEqual(['10810-second.pid', '10810-second.sock']);
});
