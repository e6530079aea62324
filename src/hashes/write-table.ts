import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { errorCodeOf } from '../repository/file-errors.js';
import { hasData, openDisk } from './disk-reader.js';
import { hashBlocks, isZero } from './hash-blocks.js';
import { blockBytes, blockCount, encodeHeader, hashOffset, headerBytes, tableBytes } from './table.js';

export interface WriteOrder {
  mode: 'write';
  file: string;
  format: 'qcow2';
  /** Where to write the table: a name that nobody has. */
  draft: string;
  parentHashesFile: string | null;
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
 * itself touches. A parent's table of a disk of another size, or none, is as if there were none. Waits: for a process of ours.
 */
export function writeTable(
  { file, format, draft, parentHashesFile }: WriteOrder,
  say: (fraction: number) => void,
): Written {
  const disk = openDisk(file, format);
  const table = openSync(draft, 'wx', 0o600);
  try {
    ftruncateSync(table, tableBytes(disk.sizeBytes));
    const isUponParent = parentHashesFile !== null && carryOver(parentHashesFile, table, disk.sizeBytes);
    if (!isUponParent) writeSync(table, encodeHeader(disk.sizeBytes), 0, headerBytes, 0);
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

/** Copies a table that is of a disk of the same size. @returns false when it is not, or there is none */
function carryOver(from: string, to: number, sizeBytes: number): boolean {
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
    for (let offset = 0; ;) {
      const count = readSync(table, buffer, 0, buffer.length, offset);
      if (count === 0) return true;
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
