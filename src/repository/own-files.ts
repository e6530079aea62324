import { dirname, relative } from 'node:path';
import { BackupError } from '../domain/errors.js';
import { lstat, realpath } from './file-system.js';
import { insideRepository, unlessMissing } from './files.js';

/**
 * The place of a file that is to be changed or removed. Only for what we wrote ourselves: a path from a row or a manifest must be
 * the very one that our own rules give it, lie in the repository also when links are followed, and be a plain file, or none.
 * @throws BackupError RepositoryUnusable; nothing was touched
 */
export async function requireOwnFile(root: string, path: string, ownPath: string): Promise<string> {
  if (path !== ownPath || dirname(path) === '.') {
    throw refusal(root, path, `expected '${ownPath}'; the row has been tampered with`);
  }
  const file = insideRepository(root, path);
  const folder = await unlessMissing(() => realpath(dirname(file)));
  if (folder === undefined) return file;
  const fromRoot = relative(await realpath(root), folder);
  if (fromRoot !== dirname(path)) throw refusal(root, path, `its folder is a link that leads to ${folder}`);
  const found = await unlessMissing(() => lstat(file));
  if (found && !found.isFile()) throw refusal(root, path, 'it is no plain file');
  return file;
}

function refusal(root: string, path: string, problem: string): BackupError {
  return new BackupError(
    'RepositoryUnusable',
    `Refused to touch '${path}' in the repository ${root}: ${problem}; it was left as it is`,
  );
}
