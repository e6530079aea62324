import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { expect } from 'vitest';
import { normalizeExtents, type Extent } from '../../src/domain/extents.js';
import { runOrThrow } from '../../src/process/run.js';
import type { Source } from '../../src/sources/source.js';

/** One VM on a real hypervisor, to which nobody but the suite writes. */
export interface SourceFixture {
  source: Source;
  vmName: string;
  /** At least two that track changes, of 1 MiB or more; one of them has a size that is no multiple of 64 KiB. */
  disks: { key: string; sizeBytes: number }[];
  /** What the guest does: when it returns, a snapshot that is opened now must have it. */
  write: (key: string, offset: number, length: number, pattern: number) => Promise<void>;
  /** As a guest's trim or write-zeroes: the range reads as zero afterwards. */
  zero: (key: string, offset: number, length: number) => Promise<void>;
  /** Shuts the VM down, lets its first two disks change places, and starts it: each key then has the image of the other. */
  exchangeDisks: () => Promise<void>;
  dispose: () => Promise<void>;
}

/** The largest granularity at which a hypervisor may record changes. */
export const granularityBytes = 65_536;

/** The whole granules that the extents touch: as much as a bitmap may report for them. */
export function granulesOf(extents: readonly Extent[], sizeBytes: number): Extent[] {
  const granules = extents.map(({ offset, length }) => {
    const start = Math.floor(offset / granularityBytes) * granularityBytes;
    const end = Math.min(Math.ceil((offset + length) / granularityBytes) * granularityBytes, sizeBytes);
    return { offset: start, length: end - start };
  });
  return normalizeExtents(granules, sizeBytes);
}

/** All bytes of an NBD export, by way of `file`. */
export async function readExport(uri: string, file: string): Promise<Buffer> {
  await runOrThrow('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, file], { timeoutMs: 60_000 });
  return readFile(file);
}

/** A connector that defines VMs knows the images of one that runs; another one says that it does not. */
export async function expectImages({ source, disks }: SourceFixture, vmId: string): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  if (!source.definesVMs) {
    await expect(source.listImages(vmId, signal)).rejects.toMatchObject({ code: 'SourceFailed' });
    await expect(source.listImageFiles(signal)).rejects.toMatchObject({ code: 'SourceFailed' });
    await expect(source.startVM(vmId, signal)).rejects.toMatchObject({ code: 'SourceFailed' });
    return;
  }
  const images = await source.listImages(vmId, signal);
  expect([images.hasSavedState, images.state]).toEqual([false, 'running']);
  expect(images.snapshots).toEqual([]);
  expect(images.disks.map(({ key }) => key).sort()).toEqual(disks.map(({ key }) => key).sort());
  const used = (await source.listImageFiles(signal)).filter((disk) => disk.vmId === vmId);
  for (const { target, file, format, obstacle } of images.disks) {
    expect([file?.startsWith('/'), format, obstacle]).toEqual([true, 'qcow2', null]);
    expect(used.filter((disk) => disk.target === target).flatMap(({ files }) => files)).toContain(file);
  }
  await expect(source.listImages(randomUUID(), signal)).rejects.toMatchObject({ code: 'VMNotFound' });
  await source.undefineVM(randomUUID(), signal); // one that is not known is success
}
