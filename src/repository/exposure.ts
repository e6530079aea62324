import { dirname, join } from 'node:path';
import { lstat, realpath, requireAnswer } from './file-system.js';
import { unlessMissing } from './files.js';

/** The bits of a mode that let somebody else in: to read or write, and to pass. */
const readOrWrite = 0o066;
const pass = 0o011;

/**
 * How other users of the host can reach a repository, by the modes of its directory and of these files in it; null where they
 * cannot. Changes nothing: a group may be meant to read it.
 * @throws BackupError RepositoryUnusable when its file system hangs; or what the file system says
 */
export async function describeExposure(root: string, files: readonly string[] = []): Promise<string | null> {
  await requireAnswer('cat', root);
  const path = await realpath(root);
  const { mode } = await lstat(path);
  if (!(await isPassable(dirname(path)))) return null;
  const openFiles = (mode & pass) === 0 ? 0 : await countOpen(path, files);
  if ((mode & readOrWrite) === 0 && openFiles === 0) return null;
  const inIt = openFiles === 0 ? '' : `, and ${openFiles} of its files are open to them`;
  return `other users of this host can reach it: ${root} has mode ${(mode & 0o7777).toString(8)}${inIt}; run 'chmod -R go= ${root}'`;
}

async function isPassable(directory: string): Promise<boolean> {
  const { mode } = await lstat(directory);
  if ((mode & pass) === 0) return false;
  return directory === dirname(directory) || isPassable(dirname(directory));
}

async function countOpen(root: string, files: readonly string[]): Promise<number> {
  let count = 0;
  for (const file of files) {
    const found = await unlessMissing(() => lstat(join(root, file)));
    if (found?.isFile() && (found.mode & readOrWrite) !== 0) count += 1;
  }
  return count;
}
