import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { run } from '../../src/process/run.js';
import { createImage } from '../../src/qemu/qemu-img.js';
import { withQMP } from '../../src/sources/qmp/client.js';
import { bitmapName, namesFor, readGraph } from '../../src/sources/qmp/nodes.js';
import { createQMPSource } from '../../src/sources/qmp/qmp-source.js';
import { changeIdOf, type Source } from '../../src/sources/source.js';
import { describeSourceContract } from '../contract/source.js';
import { startQEMUSystem } from '../support/qemu-system.js';
import { startStorageDaemon, type StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';

const MiB = 1024 * 1024;
const signal = new AbortController().signal;
const disks = [
  { key: 'vda', sizeBytes: 4 * MiB },
  { key: 'vdb', sizeBytes: 2 * MiB + 512 * 3 },
];

async function makeDirectory(): Promise<{ directory: string; scratchDir: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-qmp-'));
  const scratchDir = join(directory, 'scratch');
  await mkdir(scratchDir);
  return { directory, scratchDir };
}

/** Each of two files gets the name of the other. */
async function exchange(one: string, other: string): Promise<void> {
  await rename(one, `${one}.aside`);
  await rename(other, one);
  await rename(`${one}.aside`, other);
}

describeSourceContract('QMP of a storage daemon, with the NBD server that it runs,', async () => {
  const { directory, scratchDir } = await makeDirectory();
  const daemon = await startStorageDaemon({ directory, name: 'vm1', disks });
  const dispose = async () => {
    await daemon.stop();
    await rm(directory, { recursive: true });
  };
  const source = createQMPSource({ uri: `qmp://${directory}`, scratchDir });
  const exchangeDisks = async () => {
    await daemon.stop();
    await exchange(daemon.imageOf('vda'), daemon.imageOf('vdb'));
    await daemon.restart();
  };
  return { source, vmName: 'vm1', disks, write: daemon.write, zero: daemon.zero, exchangeDisks, dispose };
});

describeSourceContract('QMP of qemu-system, with an NBD server of our own,', async () => {
  const { directory, scratchDir } = await makeDirectory();
  const machine = await startQEMUSystem(directory, randomUUID(), disks);
  const dispose = async () => {
    await machine.stop();
    await rm(directory, { recursive: true });
  };
  const source = createQMPSource({ uri: `qmp://${machine.qmpPath}`, scratchDir });
  const exchangeDisks = async () => {
    await machine.stop();
    await exchange(machine.imageOf('vda'), machine.imageOf('vdb'));
    await machine.start();
  };
  return { source, vmName: 'machine', disks, write: machine.write, zero: machine.zero, exchangeDisks, dispose };
});

test('qemu-system: the VM goes by its UUID, and what cannot be backed up says why', async () => {
  const { directory, scratchDir } = await makeDirectory();
  const uuid = randomUUID();
  const machine = await startQEMUSystem(directory, uuid, disks);
  try {
    const source = createQMPSource({ uri: `qmp://${directory}`, scratchDir });
    const { disks: found, ...vm } = await source.describeVM('machine', signal);
    expect(vm).toEqual({ name: 'machine', vmId: uuid, state: 'paused' });
    const reasons = Object.fromEntries(found.map(({ key, skipReason }) => [key, skipReason]));
    expect(reasons).toEqual({
      vda: null,
      vdb: null,
      disc: 'CD-ROM',
      locked: 'read-only',
      [found.find(({ skipReason }) => skipReason === 'no medium')?.key ?? '']: 'no medium',
    });
    const request = { snapshotId: randomUUID(), vmId: uuid, quiesce: 'off' as const };
    const opening = source.openSnapshot({ ...request, disks: [{ key: 'disc', baseChangeId: null }] }, signal);
    await expect(opening).rejects.toMatchObject({ code: 'DiskNotFound' });
  } finally {
    await machine.stop();
    await rm(directory, { recursive: true });
  }
});

describe('QMP', () => {
  let directory: string;
  let scratchDir: string;
  let daemon: StorageDaemon;
  let source: Source;
  const vmId = 'qmp:vm1';

  beforeEach(async () => {
    ({ directory, scratchDir } = await makeDirectory());
    const options = [{ key: 'vda', sizeBytes: MiB } as const, { key: 'vdr', sizeBytes: MiB, format: 'raw' } as const];
    daemon = await startStorageDaemon({ directory, name: 'vm1', disks: options });
    source = createQMPSource({ uri: `qmp://${directory}`, scratchDir });
  });

  afterEach(async () => {
    await daemon.stop();
    await rm(directory, { recursive: true });
  });

  const open = (snapshotId: string, baseChangeId: string | null = null, openSignal = signal) =>
    source.openSnapshot({ snapshotId, vmId, quiesce: 'auto', disks: [{ key: 'vda', baseChangeId }] }, openSignal);

  async function makeBase(): Promise<string> {
    const snapshotId = randomUUID();
    await open(snapshotId);
    await source.closeSnapshot(vmId, snapshotId, signal);
    return changeIdOf(snapshotId);
  }

  const graph = () => withQMP(join(directory, 'vm1.qmp'), signal, readGraph);

  /** What a snapshot leaves behind: nothing but bitmaps of change ids. */
  async function expectNothingOpen(): Promise<void> {
    const { nodes, exports, jobIds } = await graph();
    expect(jobIds).toEqual([]);
    expect(exports.map(({ id }) => id).sort()).toEqual(['guest-vda', 'guest-vdr']);
    expect(nodes.map((node) => node['node-name']).sort()).toEqual(['vda', 'vda-file', 'vdr', 'vdr-file']);
    const bitmaps = nodes.flatMap((node) => node['dirty-bitmaps'].map(({ name }) => name));
    expect(bitmaps.filter((name) => !name.startsWith('backupvm-'))).toEqual([]);
  }

  test('honours a base after the VM was shut down in good order', async () => {
    const base = await makeBase();
    await daemon.write('vda', 0, 512, 1);
    await daemon.restart();
    const [disk] = (await open(randomUUID(), base)).disks;
    expect(disk?.changedSince).toBe(base);
    expect(disk && (await source.changedExtents(disk, signal))).toEqual([{ offset: 0, length: 65_536 }]);
  });

  test('a monitor that others hold, and wait for, is waited for: the VM is not taken for one that is shut off', async () => {
    const base = await makeBase();
    const others: Socket[] = [];
    const isFull = async () => {
      const socket = createConnection(join(directory, 'vm1.qmp'));
      others.push(socket);
      return once(socket, 'connect').then(
        () => false,
        (error: NodeJS.ErrnoException) => error.code === 'EAGAIN',
      );
    };
    await until('nobody else to be let in', isFull);
    const dropping = source.dropChangeIds(vmId, [base], signal);
    const outcome = await Promise.race([dropping.then(() => 'done'), wait(300, 'waits')]);
    expect(outcome).toBe('waits');
    for (const socket of others) socket.destroy();
    await dropping;
    const { nodes } = await graph();
    expect(nodes.flatMap((node) => node['dirty-bitmaps'])).toEqual([]);
  });

  test('honours no base after the VM was killed, whether stored before or not', async () => {
    const stored = await makeBase();
    await daemon.restart();
    const young = await makeBase();
    await daemon.kill();
    await daemon.restart();
    for (const base of [stored, young]) {
      const snapshotId = randomUUID();
      expect((await open(snapshotId, base)).disks).toMatchObject([{ changedSince: null, dirtyContext: null }]);
      await source.closeSnapshot(vmId, snapshotId, signal);
    }
    await source.dropChangeIds(vmId, [stored, young], signal);
    const names = (await graph()).nodes.flatMap((node) => node['dirty-bitmaps'].map(({ name }) => name));
    expect(names).not.toContain(bitmapName(stored, 'vda'));
  });

  test('honours no base whose bitmap stood still for a while', async () => {
    const base = await makeBase();
    await withQMP(join(directory, 'vm1.qmp'), signal, (qmp) =>
      qmp.execute('block-dirty-bitmap-disable', { node: 'vda', name: bitmapName(base, 'vda') }),
    );
    expect((await open(randomUUID(), base)).disks).toMatchObject([{ changedSince: null }]);
  });

  test('a raw disk is read at the point in time, but has no change id', async () => {
    await daemon.write('vdr', 0, 4096, 7);
    const request = { snapshotId: randomUUID(), vmId, quiesce: 'off' as const };
    const { disks: opened } = await source.openSnapshot(
      { ...request, disks: [{ key: 'vdr', baseChangeId: 'x' }] },
      signal,
    );
    expect(opened).toMatchObject([{ key: 'vdr', changeId: null, changedSince: null }]);
    await daemon.write('vdr', 0, 4096, 8);
    const { exitCode } = await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 7 0 4096', opened[0]?.uri ?? ''], {
      timeoutMs: 10_000,
    });
    expect(exitCode).toBe(0);
  });

  test('a demanded freeze is refused, and nothing is opened', async () => {
    const request = { snapshotId: randomUUID(), vmId, disks: [{ key: 'vda', baseChangeId: null }] };
    await expect(source.openSnapshot({ ...request, quiesce: 'require' }, signal)).rejects.toMatchObject({
      code: 'FreezeFailed',
    });
    await expectNothingOpen();
  });

  test('a VM whose process is gone is shut off: nothing to open, nothing to close', async () => {
    const snapshotId = randomUUID();
    await open(snapshotId);
    await daemon.kill();
    expect(await source.listVMs(signal)).toEqual([{ name: 'vm1', vmId, state: 'shut off' }]);
    await expect(open(randomUUID())).rejects.toMatchObject({ code: 'VMNotRunning' });
    await source.closeSnapshot(vmId, snapshotId, signal);
    await source.dropChangeIds(vmId, [changeIdOf(snapshotId)], signal);
    expect(existsSync(join(scratchDir, snapshotId))).toBe(false);
  });

  test.each([
    ['its scratch image', 0],
    ['its scratch node', 1],
    ['its job and bitmap, without export', 2],
  ])(
    'of an attempt that died after %s nothing is left when it is closed, and its change id dropped',
    async (_what, steps) => {
      const snapshotId = randomUUID();
      const [node] = (await graph()).nodes.filter((candidate) => candidate['node-name'] === 'vda');
      if (!node) throw new Error('no node vda');
      const names = namesFor(snapshotId, node);
      const filename = join(scratchDir, snapshotId, names.scratchFile);
      await mkdir(join(scratchDir, snapshotId));
      await createImage({ file: filename, sizeBytes: MiB, signal });
      await withQMP(join(directory, 'vm1.qmp'), signal, async (qmp) => {
        const scratch = {
          driver: 'qcow2',
          'node-name': names.scratch,
          file: { driver: 'file', filename },
          backing: 'vda',
        };
        if (steps > 0) await qmp.execute('blockdev-add', scratch);
        const job = {
          'job-id': names.job,
          device: 'vda',
          target: names.scratch,
          sync: 'none',
          'filter-node-name': names.filter,
        };
        const bitmap = { node: 'vda', name: bitmapName(changeIdOf(snapshotId), 'vda'), persistent: true };
        const actions = [
          { type: 'blockdev-backup', data: job },
          { type: 'block-dirty-bitmap-add', data: bitmap },
        ];
        if (steps > 1) await qmp.execute('transaction', { actions });
      });
      await source.closeSnapshot(vmId, snapshotId, signal);
      await source.dropChangeIds(vmId, [changeIdOf(snapshotId)], signal);
      await expectNothingOpen();
      expect((await graph()).nodes.flatMap((one) => one['dirty-bitmaps'])).toEqual([]);
      expect(existsSync(join(scratchDir, snapshotId))).toBe(false);
      await open(randomUUID());
    },
  );

  test('an opening that is cancelled anywhere in it leaves nothing', async () => {
    for (let delayMs = 0; delayMs < 60; delayMs += 3) {
      const snapshotId = randomUUID();
      const outcome = await open(snapshotId, null, AbortSignal.timeout(delayMs)).catch((error: unknown) => error);
      if (!(outcome instanceof Error)) await source.closeSnapshot(vmId, snapshotId, signal);
      await source.dropChangeIds(vmId, outcome instanceof Error ? [] : [changeIdOf(snapshotId)], signal);
      await expectNothingOpen();
      expect((await graph()).nodes.flatMap((node) => node['dirty-bitmaps'])).toEqual([]);
      expect(existsSync(join(scratchDir, snapshotId))).toBe(false);
    }
  });

  test('says which socket it expects when the process serves NBD elsewhere', async () => {
    await rm(join(directory, 'vm1.nbd'));
    await expect(open(randomUUID())).rejects.toThrow(join(directory, 'vm1.nbd'));
    await expectNothingOpen();
  });

  test('a path that is not there, and a URI of another kind, are clear errors', async () => {
    const elsewhere = (uri: string) => createQMPSource({ uri, scratchDir }).listVMs(signal);
    await expect(elsewhere(`qmp://${directory}/none`)).rejects.toThrow(`${directory}/none`);
    await expect(elsewhere('qemu:///system')).rejects.toMatchObject({ code: 'InvalidInput' });
  });
});
