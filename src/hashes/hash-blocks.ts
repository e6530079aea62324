import { createHash } from 'node:crypto';
import { blockBytes, hashBytes } from './table.js';

const zeros = Buffer.alloc(blockBytes);

/** The hashes of some blocks that lie side by side: 32 zero bytes for one of zeros. Waits: for a process of ours. */
export function hashBlocks(bytes: Buffer): Buffer {
  const hashes = Buffer.alloc(Math.ceil(bytes.length / blockBytes) * hashBytes);
  for (let offset = 0, at = 0; offset < bytes.length; offset += blockBytes, at += hashBytes) {
    const block = bytes.subarray(offset, offset + blockBytes);
    if (zeros.compare(block, 0, block.length, 0, block.length) === 0) continue;
    createHash('sha256').update(block).digest().copy(hashes, at);
  }
  return hashes;
}

/** Whether all bytes are zero. */
export function isZero(bytes: Buffer): boolean {
  for (let offset = 0; offset < bytes.length; offset += zeros.length) {
    const part = bytes.subarray(offset, offset + zeros.length);
    if (zeros.compare(part, 0, part.length, 0, part.length) !== 0) return false;
  }
  return true;
}
