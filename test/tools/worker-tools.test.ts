import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const programs = ['qemu-img', 'qemu-nbd', 'nbdcopy', 'nbdinfo', 'nbdkit', 'openssl', 'setpriv'];

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-tools-'));
});
afterEach(() => rm(directory, { recursive: true }));

/** Starts a worker that finds only the programs in our directory. It looks at them before it looks for any server. */
async function startWorker() {
  const env = { PATH: directory, DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' };
  return execa(process.execPath, ['--import', 'tsx', main, 'worker'], { env, extendEnv: false, reject: false });
}

async function link(names: readonly string[]): Promise<void> {
  for (const name of names) {
    const folders = (process.env['PATH'] ?? '').split(delimiter);
    const found = await Promise.any(
      folders.map(async (folder) => (await execa('test', ['-x', join(folder, name)]), folder)),
    );
    await symlink(join(found, name), join(directory, name));
  }
}

describe('a worker that finds its programs wanting', () => {
  test('names every missing one, and the Debian package that brings it', async () => {
    await link(programs.filter((name) => name !== 'nbdkit' && name !== 'nbdcopy'));
    const { exitCode, stderr } = await startWorker();
    expect(exitCode).toBe(9);
    expect(stderr).toMatch(/'nbdcopy' on PATH.*'libnbd-bin'/);
    expect(stderr).toMatch(/'nbdkit' on PATH.*'nbdkit'/);
  });

  test('names one that is too old, with the version that it expected and found', async () => {
    await link(programs.filter((name) => name !== 'qemu-img'));
    await writeFile(join(directory, 'qemu-img'), '#!/bin/sh\necho qemu-img version 2.12.0\n', { mode: 0o755 });
    const { exitCode, stderr } = await startWorker();
    expect(exitCode).toBe(9);
    expect(stderr).toMatch(/qemu-img 7\.2 or newer, found 2\.12/);
  });
});
