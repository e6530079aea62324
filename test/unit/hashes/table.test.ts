import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { hashBlocks } from '../../../src/hashes/hash-blocks.js';
import {
  blockBytes,
  blockCount,
  encodeHeader,
  hashOffset,
  requireTable,
  tableBytes,
} from '../../../src/hashes/table.js';

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
const zero = '00'.repeat(32);

test('the header is what docs/repository-format.md says, byte by byte', () => {
  expect(encodeHeader(8 * 1024 ** 4 + 512).toString('hex')).toBe(
    '42564d484153480a' + '00000001' + '00040000' + '0000080000000200' + '0000000000000000',
  );
});

test.each([
  ['one sector', 512, 1],
  ['one block', blockBytes, 1],
  ['a sector more than a block', blockBytes + 512, 2],
  ['a TiB', 1024 ** 4, 4 * 1024 ** 2],
])('a disk of %s: %i bytes, %i blocks', (_what, sizeBytes, blocks) => {
  expect(blockCount(sizeBytes)).toBe(blocks);
  expect(tableBytes(sizeBytes)).toBe(32 + blocks * 32);
  expect(hashOffset(blocks)).toBe(tableBytes(sizeBytes));
});

describe('the hash of a block', () => {
  test('is the SHA-256 of its bytes, of a short one at the end just of those that are there', () => {
    const bytes = Buffer.alloc(2 * blockBytes + 512, 0x5a);
    const short = bytes.subarray(2 * blockBytes);
    const whole = bytes.subarray(0, blockBytes);
    expect(hashBlocks(bytes).toString('hex')).toBe(sha256(whole) + sha256(whole) + sha256(short));
  });

  test.each([0, 1, blockBytes - 1])('is zero for zeros only: one byte at %i makes another of it', (position) => {
    const bytes = Buffer.alloc(blockBytes);
    expect(hashBlocks(bytes).toString('hex')).toBe(zero);
    bytes[position] = 1;
    expect(hashBlocks(bytes).toString('hex')).toBe(sha256(bytes));
  });
});

describe('a table is refused', () => {
  const sizeBytes = 3 * blockBytes + 512;
  const refuse = (header: Buffer, fileBytes: number) => () => requireTable('t.hashes', header, fileBytes, sizeBytes);
  const damaged = expect.objectContaining({ code: 'PointDamaged' }) as Error;

  test('that is whole: not', () => {
    expect(refuse(encodeHeader(sizeBytes), tableBytes(sizeBytes))).not.toThrow();
  });

  test.each([
    ['cut off', encodeHeader(sizeBytes), tableBytes(sizeBytes) - 32],
    ['too long', encodeHeader(sizeBytes), tableBytes(sizeBytes) + 1],
    ['of a larger disk', encodeHeader(sizeBytes + 512), tableBytes(sizeBytes)],
    ['of something else', Buffer.alloc(32), tableBytes(sizeBytes)],
  ])('that is %s', (_what, header, fileBytes) => {
    expect(refuse(header, fileBytes)).toThrow(damaged);
  });
});
