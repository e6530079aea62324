import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import { runOrThrow } from '../../src/process/run.js';
import type { StorageDaemon } from './storage-daemon.js';
import type { World } from './world.js';

/** Turns each file of a restore point into a raw image, as a stranger would, and compares it whole with what the VM's disk holds now. */
export async function expectSameContent(world: World, vm: StorageDaemon, point: BackupVMResult): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-content-'));
  try {
    for (const { key, path } of point.disks) {
      const [live, restored] = [join(directory, 'live'), join(directory, 'restored')];
      await vm.read(key, live);
      await restore(join(world.repository.path, path), restored);
      expect(await firstDifference(live, restored), `first differing byte of disk ${key}`).toBeUndefined();
    }
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** Plain `qemu-img convert`: nothing of ours takes part. */
export async function restore(file: string, target: string): Promise<void> {
  await runOrThrow('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', file, target], { timeoutMs: 120_000 });
}

/** Where two files differ first, or the end of the shorter; undefined when they are the same. */
export async function firstDifference(left: string, right: string): Promise<number | undefined> {
  const [a, b] = [await open(left), await open(right)];
  try {
    const [first, second] = [Buffer.alloc(1024 * 1024), Buffer.alloc(1024 * 1024)];
    for (let offset = 0; ;) {
      const [{ bytesRead: n }, { bytesRead: m }] = [
        await a.read(first, 0, first.length, offset),
        await b.read(second, 0, second.length, offset),
      ];
      const same = Math.min(n, m);
      if (Buffer.compare(first.subarray(0, same), second.subarray(0, same)) !== 0) {
        for (let index = 0; index < same; index += 1) if (first[index] !== second[index]) return offset + index;
      }
      if (n !== m) return offset + same;
      if (n === 0) return undefined;
      offset += n;
    }
  } finally {
    await a.close();
    await b.close();
  }
}
