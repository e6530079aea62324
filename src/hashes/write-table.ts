import { createHash } from 'node:crypto';
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import type { ImageFiles } from '../qemu/image-reference.js';
import { errorCodeOf } from '../repository/file-errors.js';
import { hasData, openDisk } from './disk-reader.js';
import { hashBlocks, isZero } from './hash-blocks.js';
import { blockBytes, blockCount, encodeHeader, hashOffset, headerBytes, tableBytes } from './table.js';

export interface WriteOrder {
  mode: 'write';
  files: ImageFiles;
  format: 'qcow2';
  /** Where to write the table: a name that nobody has. */
  draft: string;
  /** Of the backing file. Not used where it has another checksum. */
  parentHashes: HashesFile | null;
}

export interface HashesFile {
  path: string;
  /** As it was sealed, `sha256:<hex>`. */
  checksum: string;
}

export interface Written {
  hashedBlocks: number;
  /** Tells the file that was written from another one that has its name since. */
  inode: string;
}

/** Small enough that the holes of a sparse table stay holes. */
const pieceBytes = 4096;

/**
 * Writes the table of a virtual disk, durably: of all blocks with data; or, upon the table of the parent, of those that the file
 * itself touches. A parent's table that is not as it was sealed, or of a disk of another size, is as if there were none.
 * Waits: for a process of ours.
 */
export function writeTable(
  { files, format, draft, parentHashes }: WriteOrder,
  say: (fraction: number) => void,
): Written {
  const disk = openDisk(files, format);
  const table = openSync(draft, 'wx', 0o600);
  try {
    ftruncateSync(table, tableBytes(disk.sizeBytes));
    const isUponParent = parentHashes !== null && carryOver(parentHashes, table, disk.sizeBytes);
    if (!isUponParent) {
      ftruncateSync(table, 0); // what was carried over is not to be trusted
      ftruncateSync(table, tableBytes(disk.sizeBytes));
      writeSync(table, encodeHeader(disk.sizeBytes), 0, headerBytes, 0);
    }
    let hashedBlocks = 0;
    for (const span of disk.spans(isUponParent ? isOfFileItself : hasData)) {
      const hashes = hashBlocks(span.read());
      if (isUponParent || !isZero(hashes)) {
        writeSync(table, hashes, 0, hashes.length, hashOffset(span.offset / blockBytes));
      }
      hashedBlocks += blockCount(span.length);
      say((span.offset + span.length) / disk.sizeBytes);
    }
    fsyncSync(table);
    return { hashedBlocks, inode: String(fstatSync(table, { bigint: true }).ino) };
  } finally {
    closeSync(table);
    disk.close();
  }
}

function isOfFileItself({ depth, present }: { depth: number; present: boolean }): boolean {
  return depth === 0 && present;
}

/** Copies a table that is of a disk of the same size, and as it was sealed. @returns false when it is not, or there is none */
function carryOver({ path: from, checksum }: HashesFile, to: number, sizeBytes: number): boolean {
  let table: number;
  try {
    table = openSync(from, 'r');
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return false;
    throw error;
  }
  try {
    const header = Buffer.alloc(headerBytes);
    readSync(table, header, 0, headerBytes, 0);
    if (fstatSync(table).size !== tableBytes(sizeBytes) || !header.equals(encodeHeader(sizeBytes))) return false;
    const buffer = Buffer.alloc(256 * pieceBytes);
    const read = createHash('sha256');
    for (let offset = 0; ;) {
      const count = readSync(table, buffer, 0, buffer.length, offset);
      if (count === 0) return `sha256:${read.digest('hex')}` === checksum;
      read.update(buffer.subarray(0, count));
      for (let at = 0; at < count; at += pieceBytes) {
        const piece = buffer.subarray(at, Math.min(at + pieceBytes, count));
        if (!isZero(piece)) writeSync(to, piece, 0, piece.length, offset + at);
      }
      offset += count;
    }
  } finally {
    closeSync(table);
  }
}
