import { BackupError } from '../domain/errors.js';

/** What one hash covers. Small enough to locate damage, large enough that a table takes 1/8192 of what it tells of. */
export const blockBytes = 256 * 1024;
/** A SHA-256; 32 zero bytes for a block that reads as zeros, stored or not. */
export const hashBytes = 32;
/** As long as a hash, so that the hash of block `n` is the `n + 1`st of the file. */
export const headerBytes = 32;

const magic = 'BVMHASH\n';
const version = 1;

/** How many blocks a disk has; the last one may be short. */
export function blockCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / blockBytes);
}

/** The length of the table of a disk. */
export function tableBytes(sizeBytes: number): number {
  return headerBytes + blockCount(sizeBytes) * hashBytes;
}

/** Where the hash of a block stands in the file. */
export function hashOffset(block: number): number {
  return headerBytes + block * hashBytes;
}

/** The header: magic, version, block size, virtual size, and zeros up to its length. Numbers are big-endian, as in QCOW2. */
export function encodeHeader(sizeBytes: number): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.write(magic, 'latin1');
  header.writeUInt32BE(version, 8);
  header.writeUInt32BE(blockBytes, 12);
  header.writeBigUInt64BE(BigInt(sizeBytes), 16);
  return header;
}

/**
 * Whether a table is that of a disk of `sizeBytes`, and whole: judged by its header and its length.
 * @throws BackupError PointDamaged
 */
export function requireTable(file: string, header: Buffer, fileBytes: number, sizeBytes: number): void {
  const expectedBytes = tableBytes(sizeBytes);
  if (header.equals(encodeHeader(sizeBytes)) && fileBytes === expectedBytes) return;
  const found = header.equals(encodeHeader(sizeBytes)) ? `${fileBytes} bytes` : 'another header';
  throw new BackupError(
    'PointDamaged',
    `Expected the block hashes ${file} of a disk of ${sizeBytes} bytes, ${expectedBytes} bytes long, found ${found}`,
    { details: { file } },
  );
}
