import type { Database } from '../db/database.js';
import { listChain, type BackupDisk } from '../db/disks.js';
import type { PlanReason } from '../domain/plan.js';
import { fileChecksum, fileFacts, insideRepository } from '../repository/files.js';

/** A file that is not as it was sealed. */
export interface FileTrouble {
  reason: Extract<PlanReason, 'parent_missing' | 'parent_changed'>;
  path: string;
}

/** The first file of a chain that is not as it was sealed, from the parent back to the full; undefined when all are. */
export async function findChainTrouble(
  db: Database,
  root: string,
  parentId: string,
  signal: AbortSignal,
): Promise<FileTrouble | undefined> {
  return findTrouble(root, await listChain(db, parentId), signal);
}

/**
 * The first of these files that is not as it was sealed; undefined when all are. A file with its size and another modification
 * time (a copy that was put back) is read whole, and judged by its checksum.
 */
export async function findTrouble(
  root: string,
  disks: readonly BackupDisk[],
  signal: AbortSignal,
): Promise<FileTrouble | undefined> {
  for (const { path, fileBytes, fileModifiedMs, checksum } of disks) {
    const file = insideRepository(root, path);
    const found = await fileFacts(file);
    if (!found) return { reason: 'parent_missing', path };
    const isAsSealed =
      found.fileBytes === fileBytes &&
      (found.fileModifiedMs === fileModifiedMs || (await fileChecksum(file, signal)) === checksum);
    if (!isAsSealed) return { reason: 'parent_changed', path };
  }
  return undefined;
}
