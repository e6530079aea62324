import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { withQMP } from '../../src/sources/qmp/client.js';
import { isOurs, readGraph } from '../../src/sources/qmp/nodes.js';
import { createQMPSource } from '../../src/sources/qmp/qmp-source.js';
import { startStorageDaemon, type StorageDaemon } from '../support/storage-daemon.js';

const signal = new AbortController().signal;
let directory: string;
let daemon: StorageDaemon;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-qmp-'));
  daemon = await startStorageDaemon({
    ...{ directory, name: 'vm1', hasIothread: true },
    disks: [{ key: 'vda', sizeBytes: 1024 * 1024 }],
  });
});
afterEach(async () => {
  await daemon.stop();
  await rm(directory, { recursive: true });
});

test('QMP: a process with iothreads is refused by the names of its disks, and nothing is opened', async () => {
  const scratchDir = join(directory, 'scratch');
  const source = createQMPSource({ uri: `qmp://${directory}`, scratchDir });
  const disks = [{ key: 'vda', baseChangeId: null }];
  const request = { snapshotId: randomUUID(), vmId: 'qmp:vm1', quiesce: 'off' as const, disks };
  await expect(source.openSnapshot(request, signal)).rejects.toMatchObject({
    code: 'GuestAtRisk',
    message: expect.stringMatching(
      /VM 'vm1': disk 'vda' has an iothread, and QEMU 7\.2\.\d+ .*'allowIothreads'/,
    ) as string,
  });
  expect(existsSync(scratchDir)).toBe(false);
  const { nodes, exports, jobIds } = await withQMP(join(directory, 'vm1.qmp'), signal, readGraph);
  expect(nodes.flatMap((node) => node['dirty-bitmaps'])).toEqual([]);
  expect([...nodes.map((node) => node['node-name']), ...exports.map(({ id }) => id), ...jobIds].filter(isOurs)).toEqual(
    [],
  );
});
