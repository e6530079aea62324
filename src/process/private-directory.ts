import { lstat, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BackupError } from '../domain/errors.js';

/**
 * Makes a directory that only the user of this process may enter, or checks the one that is there and leaves it as it is.
 * Sockets and lists in it need no protection of their own then. May run twice.
 * @throws BackupError InvalidConfiguration when other users can enter it, or when it is a link
 */
export async function requirePrivateDirectory(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  const found = await lstat(path);
  const user = process.getuid?.();
  if (found.isSymbolicLink()) throw refusal(path, 'it is a symbolic link', 'remove the link');
  if (!found.isDirectory()) throw refusal(path, 'it is not a directory', 'remove it');
  if (found.uid !== user) throw refusal(path, `it belongs to user ${found.uid}, not to user ${user}`, 'remove it');
  if ((found.mode & 0o077) !== 0) {
    const mode = (found.mode & 0o7777).toString(8);
    throw refusal(path, `it has mode ${mode}, so other users can enter it`, `run 'chmod 700 ${path}'`);
  }
}

function refusal(path: string, fact: string, nextStep: string): BackupError {
  return new BackupError(
    'InvalidConfiguration',
    `cannot use the run directory ${path}: ${fact}; ${nextStep}, or set BACKUPVM_RUN_DIR to another directory`,
  );
}
