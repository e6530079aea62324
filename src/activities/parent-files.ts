import type { Database } from '../db/database.js';
import { listChain, type BackupDisk } from '../db/disks.js';
import type { PlanReason } from '../domain/plan.js';
import { fileChecksum, fileFacts, insideRepository, type FileFacts } from '../repository/files.js';
import { chainFiles, inspectChainFile } from '../repository/pinned-chain.js';

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
 * The first file of a chain, an image first and its full last, that is not as it was sealed; undefined when all are. A file with
 * its size and another modification time (a copy that was put back) is read whole, and judged by its checksum. Whatever its
 * times, its header must lead where the record does.
 * @param growing the id of a disk whose file is being written to, and of which only the header is looked at
 */
export async function findTrouble(
  root: string,
  chain: readonly BackupDisk[],
  signal: AbortSignal,
  growing?: string,
): Promise<FileTrouble | undefined> {
  const links = chainFiles(chain);
  for (const [index, disk] of chain.entries()) {
    const { path } = disk;
    const found = await fileFacts(insideRepository(root, path));
    if (!found) return { reason: 'parent_missing', path };
    const [link] = links.slice(index);
    if (link && 'problem' in (await inspectChainFile(root, link))) return { reason: 'parent_changed', path };
    if (disk.id !== growing && !(await isAsSealed(root, disk, found, signal)))
      return { reason: 'parent_changed', path };
  }
  return undefined;
}

async function isAsSealed(
  root: string,
  { path, fileBytes, fileModifiedMs, checksum }: BackupDisk,
  found: FileFacts,
  signal: AbortSignal,
): Promise<boolean> {
  if (found.fileBytes !== fileBytes) return false;
  return (
    found.fileModifiedMs === fileModifiedMs || (await fileChecksum(insideRepository(root, path), signal)) === checksum
  );
}
