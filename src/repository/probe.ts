import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { open, requireAnswer, rm, rmdir } from './file-system.js';

const probeName = '.backupvm-probe';

/**
 * Shows that a directory can be written to now. Leaves nothing, and follows no link: others may be able to put one there.
 * @throws BackupError RepositoryUnusable when its file system hangs; or what the file system says
 */
export async function probeWritable(directory: string): Promise<void> {
  // A folder, because mkdir and rmdir never follow a link of that name.
  const knock = join(directory, probeName);
  await requireAnswer('mkdir', knock);
  await rmdir(knock).catch(() => undefined); // also one that appeared when a file system woke up
  // The permission bits do not tell: root passes them all, and a read-only mount shows only at a write.
  const probe = join(directory, `${probeName}-${randomUUID()}`);
  await (await open(probe, 'wx', 0o600)).close();
  await rm(probe);
}
