import { join } from 'node:path';
import { z } from 'zod';
import { BackupError } from '../domain/errors.js';
import { replaceFile } from './durable.js';
import { describeFileFailure, errorCodeOf } from './file-errors.js';
import { readFile } from './file-system.js';

/** Next to the marker file, which never changes. */
export const epochName = '.backupvm-epoch.json';

const content = z.object({ format: z.literal(1), epoch: z.int().nonnegative(), registration: z.uuid() });

/** How far a repository is, and which database's registration of it wrote there last. */
export type Epoch = Omit<z.output<typeof content>, 'format'>;

/** The epoch of the repository at `path`, or undefined when none is recorded there. @throws BackupError RepositoryUnusable when the file is damaged */
export async function readEpoch(path: string): Promise<Epoch | undefined> {
  let text: string;
  try {
    text = await readFile(join(path, epochName), 'utf8');
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return undefined;
    throw describeFileFailure(error) ?? error;
  }
  try {
    const { epoch: number, registration } = content.parse(JSON.parse(text));
    return { epoch: number, registration };
  } catch (error) {
    throw new BackupError(
      'RepositoryUnusable',
      `cannot tell whether the database knows all restore points of the repository at ${path}: its file ${epochName} is damaged; run 'backupvm repository import ${path}', which writes it again`,
      { cause: error },
    );
  }
}

/** Records the epoch of a repository, durably. The caller holds the lock of its row, so that it never goes back. Safe to repeat. */
export async function writeEpoch(path: string, epoch: Epoch): Promise<void> {
  await replaceFile(join(path, epochName), `${JSON.stringify({ format: 1, ...epoch }, null, 2)}\n`);
}
