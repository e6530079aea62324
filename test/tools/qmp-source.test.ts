import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createQMPSource } from '../../src/sources/qmp/qmp-source.js';
import { describeSourceContract } from '../contract/source.js';
import { startStorageDaemon } from '../support/storage-daemon.js';

const MiB = 1024 * 1024;

describeSourceContract('QMP with the NBD server that was there', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-qmp-'));
  const disks = [
    { key: 'vda', sizeBytes: 4 * MiB },
    { key: 'vdb', sizeBytes: 2 * MiB + 512 * 3 },
  ];
  const scratchDir = join(directory, 'scratch');
  await mkdir(scratchDir);
  const { write, zero, stop } = await startStorageDaemon({ directory, name: 'vm1', disks });
  return {
    source: createQMPSource({ uri: `qmp://${directory}`, scratchDir }),
    vmName: 'vm1',
    disks,
    write,
    zero,
    dispose: async () => {
      await stop();
      await rm(directory, { recursive: true });
    },
  };
});
