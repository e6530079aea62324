import type { Database } from '../db/database.js';
import { listChain, type BackupDisk } from '../db/disks.js';
import { BackupError } from '../domain/errors.js';
import { compareBlockHashes, type CompareHashesRequest } from '../hashes/hash-disk.js';
import { measureImage, type ImageFormat } from '../qemu/convert.js';
import { chainFiles, withPinnedChain } from '../repository/pinned-chain.js';
import { findTrouble } from './parent-files.js';
import { findHashesDamage } from './verify-file.js';

interface Restoring {
  format: ImageFormat;
  allowDamaged: boolean;
  signal: AbortSignal;
}

/**
 * How many bytes a restored disk needs, if its files are what the record says. Reads no data of the disk.
 * @throws BackupError PointDamaged for files or block hashes that are not as they were sealed, unless damage is allowed; and, also
 * then, for a header that leads to a file that the record does not list: that would be read with our rights
 */
export async function measureRestore(
  db: Database,
  root: string,
  disk: BackupDisk,
  { format, allowDamaged, signal }: Restoring,
): Promise<number> {
  const chain = await listChain(db, disk.id);
  return withPinnedChain(root, chainFiles(chain), async (files) => {
    if (!allowDamaged) await requireAsSealed(root, chain, signal);
    return measureImage(files, format, signal);
  });
}

async function requireAsSealed(root: string, chain: readonly BackupDisk[], signal: AbortSignal): Promise<void> {
  const [disk] = chain;
  if (!disk) throw new TypeError('Expected the chain of a disk, found no file in it');
  const trouble = await findTrouble(root, chain, signal);
  if (trouble) throw notAsSealed(disk, `${trouble.path} is not as it was sealed`);
  const damage = await findHashesDamage({ root, disk, parent: null, level: 'checksum', signal });
  if (damage !== undefined) throw notAsSealed(disk, damage);
}

/**
 * Compares a restored file with the block hashes that were sealed with its restore point. Whatever somebody put in their place
 * meanwhile: what it was compared with must be what the record knows.
 * @throws BackupError PointDamaged where there are no such hashes
 */
export async function compareWithSealed(disk: BackupDisk, request: CompareHashesRequest) {
  const compared = await compareBlockHashes(request);
  if (compared.hashesChecksum === disk.hashesChecksum) return compared;
  throw notAsSealed(disk, `${request.hashesFile} is not as it was sealed`);
}

function notAsSealed({ diskKey, jobId }: BackupDisk, problem: string): BackupError {
  return new BackupError(
    'PointDamaged',
    `cannot restore disk '${diskKey}' of restore point ${jobId}: ${problem}; run 'backupvm verify --point ${jobId}', choose an earlier point, or allow damage to restore what is left`,
  );
}
