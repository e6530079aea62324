import { dirname } from 'node:path';
import type { Database } from '../db/database.js';
import { listChain, type BackupDisk } from '../db/disks.js';
import { requireClaim } from '../db/hosts.js';
import { getJob } from '../db/jobs.js';
import { abandonMerge, completeMerge, listMerged, recordMerged, recordMergeProcess, type Merge } from '../db/merges.js';
import { BackupError } from '../domain/errors.js';
import { hashesFilePath } from '../domain/names.js';
import { compareBlockHashes } from '../hashes/hash-disk.js';
import { recordedIdentity, stopProcess } from '../process/identity.js';
import { commitImage, haveSameContent } from '../qemu/commit-image.js';
import { checkImage } from '../qemu/qemu-img.js';
import { syncDirectory, syncFile } from '../repository/durable.js';
import { rename } from '../repository/file-system.js';
import { fileChecksum, fileFacts } from '../repository/files.js';
import { rewriteManifest } from '../repository/manifest.js';
import { chainFiles, withPinnedChain } from '../repository/pinned-chain.js';
import type { HostDependencies } from './dependencies.js';
import { getJobRows } from './job-rows.js';
import { findTrouble } from './parent-files.js';
import { ownDiskFile, ownManifest, type PointFolder } from './point-files.js';
import { sealedManifest } from './point-manifest.js';
import { requireCurrent } from './repository-epoch.js';

/** Ample for a process that writes: it ends at once, unless its storage hangs. */
const stopTimeouts = { termTimeoutMs: 10_000, killTimeoutMs: 10_000 };

export interface MergeWatch {
  signal: AbortSignal;
  onProgress: (progress: MergeProgress) => void;
}

/** How far a disk is: all its bytes, once while they are written and once while they are compared. */
export interface MergeProgress {
  key: string;
  phase: string;
  doneBytes: number;
  totalBytes: number;
}

interface Looking {
  signal: AbortSignal;
  onProgress: (fraction: number) => void;
}

/** The disks of a merge, and where the two files lie that change. */
interface Merging {
  merge: Merge;
  folder: PointFolder;
  base: BackupDisk;
  /** Between the two, and the successor itself: read, and not changed before all is done. */
  read: BackupDisk[];
  successor: BackupDisk;
  baseFile: string;
  successorFile: string;
}

/**
 * Brings a merge to its end from wherever it was left: commits the data into the base's file, compares, makes it durable, and only
 * then gives it the successor's name. The successor, and all that needs it, reads right at any moment. Safe to repeat.
 * @throws BackupError PointDamaged when it cannot be done any more: then nothing was removed, and what cannot be trusted is marked;
 * ExportFailed when somebody else has a file open; RepositoryFull; ContentDiffers
 */
export async function finishMerge(
  dependencies: HostDependencies,
  folder: PointFolder,
  merge: Merge,
  { signal, onProgress }: MergeWatch,
): Promise<void> {
  const { db } = dependencies;
  const merging = await lookAtMerge(db, folder, merge);
  const merged =
    merge.phase === 'replacing' ? sealedFacts(merge) : await commit(dependencies, merging, { signal, onProgress });
  await replace(db, { ...merging, merge: { ...merge, phase: 'replacing' } }, merged, signal);
}

async function lookAtMerge(db: Database, folder: PointFolder, merge: Merge): Promise<Merging> {
  const [base, ...read] = await listMerged(db, merge);
  const successor = read.at(-1);
  if (!base || !successor) throw new TypeError(`Expected two disks in merge ${merge.id}`);
  const fileOf = async (disk: BackupDisk) => ownDiskFile(folder, disk, (await getJob(db, disk.jobId)).pointTime);
  for (const disk of read) await fileOf(disk); // a tampered row is refused before anything is written
  const [baseFile, successorFile] = [await fileOf(base), await fileOf(successor)];
  return { merge, folder, base, read, successor, baseFile, successorFile };
}

interface MergedFile {
  mergedChecksum: string;
  mergedBytes: number;
}

function sealedFacts({ id, mergedChecksum, mergedBytes }: Merge): MergedFile {
  if (mergedChecksum === null || mergedBytes === null) throw new TypeError(`Expected merge ${id} with its checksum`);
  return { mergedChecksum, mergedBytes };
}

async function commit(
  { db, host, machineId }: HostDependencies,
  merging: Merging,
  { signal, onProgress }: MergeWatch,
): Promise<MergedFile> {
  const { merge, successor, baseFile, successorFile } = merging;
  const { diskKey: key, sizeBytes: totalBytes } = successor;
  const tell = (phase: string) => {
    const say = (fraction: number) =>
      onProgress({ key, phase, doneBytes: Math.round(fraction * totalBytes), totalBytes });
    say(0);
    return say;
  };
  await requireClaim(db, { host, machineId });
  const writer = recordedIdentity(merge);
  if (writer) await stopProcess(writer, stopTimeouts);
  await requireReadable(db, merging, signal);
  try {
    await commitImage({
      base: baseFile,
      top: successorFile,
      signal,
      onProgress: tell('merging'),
      async onStart(process) {
        if (await recordMergeProcess(db, merge.id, process)) return;
        throw new BackupError('CleanUpFailed', `Expected merge ${merge.id} to write, found that it is past that`);
      },
    });
  } catch (error) {
    if (error instanceof BackupError && error.code === 'ToolFailed') await requireSound(db, merging, signal);
    throw error;
  }
  await requireSameContent(db, merging, { signal, onProgress: tell('comparing') });
  await syncFile(baseFile);
  const mergedChecksum = await fileChecksum(baseFile, signal);
  const mergedBytes = (await fileFacts(baseFile))?.fileBytes;
  if (mergedBytes === undefined) throw new TypeError(`Expected ${baseFile} after its checksum was read, found none`);
  await recordMerged(db, merge, { mergedChecksum, mergedBytes });
  // An older database would take the base for lost once its file has the successor's name: the repository says so before.
  await requireCurrent(db, merging.folder.repository);
  return { mergedChecksum, mergedBytes };
}

/** Every file that is read must be as it was sealed: what has vanished, or changed, would silently be missing in the result. */
async function requireReadable(db: Database, merging: Merging, signal: AbortSignal): Promise<void> {
  const { folder, base, successor, baseFile } = merging;
  const chain = await listChain(db, successor.id);
  const trouble = await findTrouble(folder.repository.path, chain, signal, base.id);
  if (trouble) {
    await abandon(db, merging, `${trouble.path} ${trouble.reason === 'parent_missing' ? 'is missing' : 'has changed'}`);
  }
  if (!(await fileFacts(baseFile))) await abandon(db, merging, `${base.path} is missing`); // changed it may be: by us
}

/** After a commit that failed: whether it is the files themselves that cannot be read. */
async function requireSound(db: Database, merging: Merging, signal: AbortSignal): Promise<void> {
  for (const file of [merging.baseFile, merging.successorFile]) {
    try {
      await checkImage(file, signal);
    } catch (error) {
      if (!(error instanceof BackupError) || error.code !== 'ImageDamaged') throw error;
      await abandon(db, merging, error.message);
    }
  }
}

/**
 * Compares what the base's file holds now with the block hashes that were recorded when the successor was backed up. Without a
 * table of them, with what the successor itself reads.
 */
async function requireSameContent(db: Database, merging: Merging, looking: Looking): Promise<void> {
  const { baseFile, successor, successorFile } = merging;
  const differences = await countDifferences(db, merging, merging.base, looking);
  if (differences === 0) return;
  if (differences !== null && (await countDifferences(db, merging, successor, looking)) !== 0) {
    await abandon(db, merging, `${successor.path} does not hold what was backed up`);
  }
  throw new BackupError(
    'ContentDiffers',
    `Expected in ${baseFile} what was backed up as ${successorFile}, found other data; nothing was removed, the merge begins anew`,
  );
}

/**
 * How many blocks of a disk's file differ from the hashes that were sealed with the successor; null where these are of no use, and
 * the files differ.
 */
async function countDifferences(
  db: Database,
  { folder, successor, successorFile }: Merging,
  disk: BackupDisk,
  looking: Looking,
): Promise<number | null> {
  const root = folder.repository.path;
  const hashesFile = hashesFilePath(successorFile);
  const chainOf = async ({ id }: BackupDisk) => chainFiles(await listChain(db, id));
  const chain = await chainOf(disk);
  try {
    if (await fileFacts(hashesFile)) {
      const compared = await withPinnedChain(root, chain, (files) =>
        compareBlockHashes({ files, format: 'qcow2', hashesFile, ...looking }),
      );
      // A table that has changed since says nothing of the points.
      if (compared.hashesChecksum === successor.hashesChecksum) return compared.differentBlocks;
    }
  } catch (error) {
    if (!(error instanceof BackupError) || error.code !== 'PointDamaged') throw error;
  }
  const other = await chainOf(successor);
  const isSame = await withPinnedChain(root, chain, (files) =>
    withPinnedChain(root, other, (otherFiles) => haveSameContent(files, otherFiles, looking.signal)),
  );
  return isSame ? 0 : null;
}

/** @throws BackupError PointDamaged, always */
async function abandon(db: Database, { merge, base, successor }: Merging, problem: string): Promise<never> {
  const what = `the merge of restore points from ${base.jobId} on into ${successor.jobId} cannot be done: ${problem}`;
  await abandonMerge(db, merge, what);
  throw new BackupError(
    'PointDamaged',
    `Disk '${successor.diskKey}': ${what}; nothing was removed, and all that needs it is marked as damaged`,
  );
}

/** Gives the merged file its name, writes the manifest anew, and then, in one transaction, makes the row what the file is. */
async function replace(
  db: Database,
  merging: Merging,
  { mergedChecksum, mergedBytes }: MergedFile,
  signal: AbortSignal,
): Promise<void> {
  const { merge, folder, base, successor, baseFile, successorFile } = merging;
  const unmoved = await fileFacts(baseFile);
  if (unmoved && unmoved.fileBytes !== mergedBytes) await abandon(db, merging, `${base.path} is not the merged file`);
  if (unmoved) {
    await rename(baseFile, successorFile);
    await syncDirectory(dirname(successorFile));
  }
  const facts = await fileFacts(successorFile);
  const isMerged =
    facts?.fileBytes === mergedBytes && (unmoved || (await fileChecksum(successorFile, signal)) === mergedChecksum);
  if (!isMerged) return abandon(db, merging, `${successor.path} is not the merged file`);
  const { type, parentId } = base;
  const merged = { type, parentId, checksum: mergedChecksum, ...facts };
  await describeMerged(db, folder, { ...successor, ...merged, reason: 'merged' });
  await completeMerge(db, merge, merged);
}

/** Writes the manifest of the point that a disk belongs to, with the disk as it is now. */
async function describeMerged(db: Database, folder: PointFolder, merged: BackupDisk): Promise<void> {
  const rows = await getJobRows(db, merged.jobId);
  await rewriteManifest(await ownManifest(folder, rows.job.pointTime), await sealedManifest(db, rows, merged));
}
