import { dirname, join, resolve } from 'node:path';
import { headerReadBytes, parseQCOW2Header } from '../qemu/qcow2-header.js';
import { readdir } from './file-system.js';
import { unlessMissing } from './files.js';
import { pinFile } from './pinned-file.js';

/** The path that a QCOW2 file names as its backing file; undefined when it names none, or is no QCOW2 file. Starts no program. */
export async function readBackingPath(file: string): Promise<string | undefined> {
  const pinned = await pinFile(file);
  try {
    const name = parseQCOW2Header(await pinned.readHead(headerReadBytes))?.backingName;
    return name ? resolve(dirname(file), name) : undefined;
  } finally {
    await pinned.unpin();
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
