import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { ImageFiles } from '../../src/qemu/image-reference.js';
import { parseQCOW2Header } from '../../src/qemu/qcow2-header.js';
import type { ImageParent } from '../../src/qemu/qemu-img.js';

/** A file that a test made, and those that it reads through, as their headers say; the last one may be missing. */
export async function imageFiles(file: string): Promise<ImageFiles> {
  const parents: string[] = [];
  for (let next: string | undefined = file; next !== undefined;) {
    const name: string | null = (await headerOf(next))?.backingName ?? null;
    next = name === null ? undefined : join(dirname(next), name);
    if (next !== undefined) parents.push(next);
  }
  return [file, ...parents];
}

export async function parentOf(file: string): Promise<ImageParent> {
  return { name: basename(file), files: await imageFiles(file) };
}

/** Undefined for a file that is missing, or that is no QCOW2 file. */
export async function headerOf(file: string) {
  return parseQCOW2Header(await readFile(file).catch(() => Buffer.alloc(0)));
}
