import { chmod, mkdir } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

/**
 * Makes a directory, and what is missing above it, so that other users can pass through but not list it: QEMU's user and that of
 * Postgres have a place of their own below. Leaves those that are there as they are. May run twice.
 */
export async function makePassableDirectory(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true });
  if (first === undefined) return;
  // Set, not asked for: the umask would take the bits away.
  for (let made = resolve(path); made.length >= first.length; made = dirname(made)) await chmod(made, 0o711);
}
