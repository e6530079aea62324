import { resolve } from 'node:path';

/** The file of an image, and then each file that it reads through, down to the full. */
export type ImageFiles = readonly [string, ...string[]];

/**
 * How QEMU's tools are told which files to open: each one by name. Without that they follow the backing file that a header names,
 * to any file of this machine and through any protocol, with our rights.
 */
export function imageReference([first, ...parents]: ImageFiles, format: 'qcow2' | 'raw' = 'qcow2'): string {
  const file = (filename: string) => ({ driver: 'file', filename: resolve(filename) });
  if (format === 'raw') return `json:${JSON.stringify({ driver: 'raw', file: file(first) })}`;
  const backing = parents.reduceRight<object | null>(
    (below, parent) => ({ driver: 'qcow2', file: file(parent), backing: below }),
    null,
  );
  return `json:${JSON.stringify({ driver: 'qcow2', file: file(first), backing })}`;
}
