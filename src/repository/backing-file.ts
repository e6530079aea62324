import { dirname, join, resolve } from 'node:path';
import { openForReading, readdir } from './file-system.js';
import { unlessMissing } from './files.js';

/** The fields of a QCOW2 header up to the length of the backing file's name. */
const headerBytes = 20;
/** QEMU's own limit. */
const longestNameBytes = 1023;

/** The path that a QCOW2 file names as its backing file; undefined when it names none, or is no QCOW2 file. Starts no program. */
export async function readBackingPath(file: string): Promise<string | undefined> {
  const opened = await openForReading(file);
  try {
    const header = await opened.read(0, headerBytes);
    if (header.length < headerBytes || header.toString('latin1', 0, 4) !== 'QFI\xfb') return undefined;
    const offset = Number(header.readBigUInt64BE(8));
    const length = header.readUInt32BE(16);
    if (offset === 0 || length === 0 || length > longestNameBytes) return undefined;
    return resolve(dirname(file), (await opened.read(offset, length)).toString('utf8'));
  } finally {
    await opened.close();
  }
}

/**
 * The finished files that have one of these as their backing file, which lie next to them. Reads each folder once. Attempts do not
 * count: they are not sealed.
 */
export async function findDescendants(files: readonly string[]): Promise<{ path: string; backingPath: string }[]> {
  const wanted = new Set(files.map((file) => resolve(file)));
  const found: { path: string; backingPath: string }[] = [];
  for (const folder of new Set(files.map((file) => dirname(file)))) {
    for (const name of await filesIn(folder)) {
      if (!name.endsWith('.qcow2')) continue;
      const path = join(folder, name);
      const backingPath = await unlessMissing(() => readBackingPath(path));
      if (backingPath !== undefined && wanted.has(backingPath)) found.push({ path, backingPath });
    }
  }
  return found.sort((a, b) => a.path.localeCompare(b.path));
}

async function filesIn(folder: string): Promise<string[]> {
  const entries = await unlessMissing(() => readdir(folder, { withFileTypes: true }));
  return (entries ?? []).flatMap((entry) => (entry.isFile() ? [entry.name] : []));
}
