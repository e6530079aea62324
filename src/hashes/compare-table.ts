import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { BackupError } from '../domain/errors.js';
import type { ImageFiles } from '../qemu/image-reference.js';
import { errorCodeOf } from '../repository/file-errors.js';
import { hasData, openDisk } from './disk-reader.js';
import { hashBlocks, isZero } from './hash-blocks.js';
import { blockBytes, blockCount, hashBytes, hashOffset, headerBytes, requireTable } from './table.js';

export interface CompareOrder {
  mode: 'compare';
  files: ImageFiles;
  format: 'qcow2' | 'raw';
  hashesFile: string;
}

export interface Compared {
  comparedBlocks: number;
  /** Of the blocks that hold anything but zeros. */
  dataBytes: number;
  differentBlocks: number;
  /** Where the first blocks begin that differ, at most ten: offsets in the virtual disk, in bytes. */
  firstDifferences: number[];
  /** Of the very hashes that it was compared with, as `sha256:<hex>`. */
  hashesChecksum: string;
}

const shownDifferences = 10;
/** Blocks whose hashes are read at once where the disk has no data. */
const zeroBlocks = 32 * 1024;

/**
 * Reads a virtual disk through its chain and compares each block with its table; where nothing is stored, the table must say zeros.
 * Waits: for a process of ours.
 * @throws BackupError PointDamaged when there is no such table, or it is not one of this disk
 */
export function compareTable({ files, format, hashesFile }: CompareOrder, say: (fraction: number) => void): Compared {
  const disk = openDisk(files, format);
  const { table, header } = openTable(hashesFile, disk.sizeBytes);
  const read = createHash('sha256').update(header); // all of it is read, in order
  const found = { comparedBlocks: 0, dataBytes: 0, differentBlocks: 0, firstDifferences: [] as number[] };
  const expected = (block: number, count: number): Buffer => {
    const hashes = Buffer.alloc(count * hashBytes);
    readSync(table, hashes, 0, hashes.length, hashOffset(block));
    read.update(hashes);
    return hashes;
  };
  const compare = (block: number, actual: Buffer, recorded: Buffer) => {
    for (let index = 0; index * hashBytes < actual.length; index += 1) {
      const at = index * hashBytes;
      const hash = actual.subarray(at, at + hashBytes);
      const offset = (block + index) * blockBytes;
      if (!isZero(hash)) found.dataBytes += Math.min(blockBytes, disk.sizeBytes - offset);
      if (hash.equals(recorded.subarray(at, at + hashBytes))) continue;
      found.differentBlocks += 1;
      if (found.firstDifferences.length < shownDifferences) found.firstDifferences.push(offset);
    }
    found.comparedBlocks += actual.length / hashBytes;
  };
  const expectZeros = (until: number) => {
    while (found.comparedBlocks < until) {
      const block = found.comparedBlocks;
      const count = Math.min(zeroBlocks, until - block);
      const recorded = expected(block, count);
      if (isZero(recorded)) found.comparedBlocks += count;
      else compare(block, Buffer.alloc(count * hashBytes), recorded);
    }
  };
  try {
    for (const span of disk.spans(hasData)) {
      const block = span.offset / blockBytes;
      expectZeros(block);
      compare(block, hashBlocks(span.read()), expected(block, blockCount(span.length)));
      say((span.offset + span.length) / disk.sizeBytes);
    }
    expectZeros(blockCount(disk.sizeBytes));
    return { ...found, hashesChecksum: `sha256:${read.digest('hex')}` };
  } finally {
    closeSync(table);
    disk.close();
  }
}

function openTable(hashesFile: string, sizeBytes: number): { table: number; header: Buffer } {
  try {
    const table = openSync(hashesFile, 'r');
    const header = Buffer.alloc(headerBytes);
    readSync(table, header, 0, headerBytes, 0);
    requireTable(hashesFile, header, fstatSync(table).size, sizeBytes);
    return { table, header };
  } catch (error) {
    if (errorCodeOf(error) !== 'ENOENT') throw error;
    throw new BackupError('PointDamaged', `Expected the block hashes ${hashesFile}, found no such file`, {
      details: { file: hashesFile },
    });
  }
}
