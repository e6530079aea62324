/** What the header of a QCOW2 file says. Whoever can write to the file decides it: compare it with the record before use. */
export interface QCOW2Header {
  /** Of the virtual disk. */
  sizeBytes: number;
  /** The backing file as it stands there: a name, a path, or `json:` and other protocols. Null without one. */
  backingName: string | null;
  /** Null where the header leaves it to QEMU to guess. */
  backingFormat: string | null;
  /** Whether the disk's data lie in another file, which the header names too. QEMU opens that by itself, for any command. */
  hasDataFile: boolean;
}

/** As much of a file as holds the header, in files with the cluster size that we use. */
export const headerReadBytes = 64 * 1024;

const magic = 0x514649fb; // 'QFI\xfb'
const dataFileBit = 1 << 2;
const backingFormatExtension = 0xe2792aca;

// The layout: https://www.qemu.org/docs/master/interop/qcow2.html

/** The header at the beginning of a file; undefined when it is none, or none that is whole. */
export function parseQCOW2Header(bytes: Buffer): QCOW2Header | undefined {
  if (bytes.length < 104 || bytes.readUInt32BE(0) !== magic) return undefined;
  const version = bytes.readUInt32BE(4);
  if (version !== 2 && version !== 3) return undefined;
  const [nameOffset, nameBytes] = [Number(bytes.readBigUInt64BE(8)), bytes.readUInt32BE(16)];
  if (nameOffset + nameBytes > bytes.length) return undefined;
  const backingName = nameOffset === 0 ? null : bytes.toString('utf8', nameOffset, nameOffset + nameBytes);
  const headerBytes = version === 2 ? 72 : bytes.readUInt32BE(100);
  const backingFormat = readExtension(bytes, headerBytes, backingFormatExtension);
  return {
    sizeBytes: Number(bytes.readBigUInt64BE(24)),
    backingName,
    backingFormat: backingFormat?.toString('utf8') ?? null,
    hasDataFile: version === 3 && (bytes.readUInt32BE(76) & dataFileBit) !== 0,
  };
}

/** A header extension's content; undefined when there is none of that type. */
function readExtension(bytes: Buffer, start: number, wanted: number): Buffer | undefined {
  for (let offset = start; offset + 8 <= bytes.length;) {
    const [type, length] = [bytes.readUInt32BE(offset), bytes.readUInt32BE(offset + 4)];
    if (type === 0 || offset + 8 + length > bytes.length) return undefined;
    if (type === wanted) return bytes.subarray(offset + 8, offset + 8 + length);
    offset += 8 + Math.ceil(length / 8) * 8;
  }
  return undefined;
}
