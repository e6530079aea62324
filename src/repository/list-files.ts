import { join, relative } from 'node:path';
import { readdir } from './file-system.js';

/**
 * The files below a repository whose names are of our kinds: disks, unfinished disks, block hashes, manifests, and drafts of these
 * two. Relative to it, in order. What else people keep there is their own.
 */
export async function listBackupFiles(root: string, signal: AbortSignal): Promise<string[]> {
  const found: string[] = [];
  const folders = [root];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    signal.throwIfAborted();
    for (const entry of await readdir(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) folders.push(path);
      else if (isBackupFile(entry.name)) found.push(relative(root, path));
    }
  }
  return found.sort();
}

/** Whether a name is of a kind that we write. */
export function isBackupFile(name: string): boolean {
  return /\.(qcow2|partial|hashes)$|^backup-.*\.json$|^\.backup-.*\.(json|hashes)\.draft$/.test(name);
}
