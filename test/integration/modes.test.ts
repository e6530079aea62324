import { statSync } from 'node:fs';
import { lstat, mkdir, readdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { createLab, type Lab } from '../support/lab.js';
import { restoreVM } from '../support/restores.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';

const MiB = 1024 * 1024;

/** The product's own worker, started where files are open to everybody by default, and a VM that it backs up. */
let lab: Lab;
let vm: StorageDaemon;
let stopWorker: () => Promise<unknown>;
beforeAll(async () => {
  const temporalAddress = inject('temporalAddress');
  lab = await createLab('modes', { templateDatabaseUrl: inject('templateDatabaseUrl'), temporalAddress });
  vm = await lab.startVM('web01', [{ key: 'root', sizeBytes: 64 * MiB }]);
  await vm.write('root', 0, 32 * MiB, 0x11);
  const { config } = lab;
  const worker = execa('sh', ['-c', 'umask 022; exec "$NODE" --import tsx src/cli/main.ts worker'], {
    reject: false,
    env: {
      ...{ NODE: process.execPath, DATABASE_URL: lab.database.url, BACKUPVM_HOST: config.host },
      ...{ TEMPORAL_ADDRESS: temporalAddress, TEMPORAL_NAMESPACE: lab.namespace, TEMPORAL_CONFIG_FILE: '/none.toml' },
      ...{ BACKUPVM_RUN_DIR: config.runDir, BACKUPVM_SCRATCH_DIR: config.scratchDir },
      BACKUPVM_NBD_PORTS: `${config.nbdPorts.first}-${config.nbdPorts.last}`,
      BACKUPVM_RESTORE_DIRS: config.restoreDirs.join(':'),
    },
  });
  stopWorker = async () => {
    worker.kill('SIGTERM');
    return worker;
  };
  let log = '';
  worker.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
  await until('the worker', () => log.includes('worker started') || worker.exitCode !== null, 110_000);
  expect(log).toContain('worker started');
});
afterAll(async () => {
  await stopWorker();
  await lab.close();
});

/** What other users may do with the files and folders of a directory, and with itself: those that they may do anything with. */
async function openToOthers(...directories: string[]): Promise<string[]> {
  const found: string[] = [];
  for (const directory of directories) {
    for (const name of ['.', ...(await readdir(directory, { recursive: true }))]) {
      const path = join(directory, name);
      const stat = await lstat(path).catch(() => undefined); // removed since
      if (stat && (stat.mode & 0o077) !== 0) {
        found.push(`${relative(lab.directory, path)} ${(stat.mode & 0o777).toString(8)}`);
      }
    }
  }
  return found;
}

test('what the worker makes is closed to other users, while a copy runs and afterwards', async () => {
  const { runDir, scratchDir } = lab.config;
  const handle = await lab.start({ vm: 'web01' });
  const served = until('the export', async () => {
    const { rows } = await lab.database.pool.query<{ pid: number | null }>('select pid from nbd_exports');
    return rows.some(({ pid }) => pid !== null);
  });
  await Promise.race([served, handle.result().then(() => expect.fail('the copy ended too early'))]);
  vm.pause();
  const during = await openToOthers(lab.repository.path, runDir, scratchDir);
  const files = (await readdir(lab.repository.path, { recursive: true })).filter((name) => name.endsWith('.partial'));
  const scratchFiles = (await readdir(scratchDir, { recursive: true })).filter((name) => name.endsWith('.qcow2'));
  vm.resume();
  await handle.result();
  expect([files.length, scratchFiles.length]).toEqual([1, 1]);
  expect(during).toEqual(['scratch 711']); // QEMU's user has to pass, and can list nothing
  expect(await openToOthers(lab.repository.path, runDir, scratchDir)).toEqual(['scratch 711']);
  const sealed = await readdir(join(lab.repository.path, 'web01'), { recursive: true });
  expect(sealed.map((name) => name.replace(/.*\./, '')).sort()).toEqual(['hashes', 'json', 'qcow2', 'root']);
});

test.each(['qcow2', 'raw'] as const)(
  'a restored %s file is closed to other users from its first byte on',
  async (format) => {
    const directory = join(lab.config.restoreDirs[0] ?? '', format);
    await mkdir(directory, { recursive: true });
    const modes = new Set<string>();
    const watch = setInterval(() => void look(), 1);
    const look = async () => {
      for (const name of (await readdir(directory)).filter((one) => !one.startsWith('.backupvm-probe'))) {
        const found = statSync(join(directory, name), { throwIfNoEntry: false });
        if (found) modes.add(`${name.replace(/.*\./, '')} ${(found.mode & 0o777).toString(8)}`);
      }
    };
    await restoreVM(lab, { vm: 'web01', target: { kind: 'files', directory, format } }).finally(() =>
      clearInterval(watch),
    );
    await look();
    expect([...modes].sort()).toEqual(['partial 600', `${format} 600`].sort());
  },
);
