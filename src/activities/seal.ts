import { basename } from 'node:path';
import type { Database } from '../db/database.js';
import { getDisk, listChain, listDisks, type BackupDisk } from '../db/disks.js';
import { findJob, sealJob, type SealedDisk } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';
import { hashesFilePath, manifestPath } from '../domain/names.js';
import { removeHashes, writeBlockHashes } from '../hashes/hash-disk.js';
import { checkImage } from '../qemu/qemu-img.js';
import { draftPath } from '../repository/durable.js';
import {
  fileChecksum,
  fileFacts,
  insideRepository,
  moveIntoPlace,
  removeEmptyFolders,
  removeFile,
  requirePlainFolders,
} from '../repository/files.js';
import { draftManifest, type ManifestDisk } from '../repository/manifest.js';
import { chainFiles, inspectChainFile, withPinnedChain } from '../repository/pinned-chain.js';
import { probeRepository } from '../repository/marker.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost, type JobRows } from './job-rows.js';
import { manifestEntry, pointManifest, publishPoint } from './point-manifest.js';
import { requireCurrent } from './repository-epoch.js';
import { findSealedManifest, repositoryAhead } from './sealed-files.js';

export function createSealActivities({ db, host }: HostDependencies) {
  return {
    /**
     * Checks every file of the job, makes it durable under its final name, with its block hashes beside it, writes the draft of the
     * manifest, and then, in one transaction, makes the job a restore point. The manifest gets its final name after that, so one that
     * has it belongs to a sealed point. Safe to repeat, also after a crash between any two of these.
     */
    async sealRestorePoint(input: { jobId: string }): Promise<void> {
      return heartbeating(async (signal) => {
        const rows = await getJobRows(db, input.jobId);
        const { job, repository } = rows;
        requireHost(host, repository);
        await probeRepository(repository.path, repository.id);
        await requireCurrent(db, repository);
        if (job.status !== 'complete') await seal(db, rows, signal);
        await publishPoint(db, job.id);
        await requireCurrent(db, repository);
      });
    },
  };
}

async function seal(db: Database, rows: JobRows, signal: AbortSignal): Promise<void> {
  const { job, context, repository } = rows;
  const root = repository.path;
  const claim = await findSealedManifest(rows);
  if (claim !== undefined) throw repositoryAhead(repository, claim);
  const disks = await listDisks(db, job.id);
  const manifest = insideRepository(root, manifestPath(context.directory, job.pointTime));
  const sealed: SealedDisk[] = [];
  const entries: ManifestDisk[] = [];
  try {
    for (const disk of disks) {
      const parent = disk.parentId === null ? null : await getDisk(db, disk.parentId);
      const facts = await finishFile(db, root, { disk, parent }, signal);
      sealed.push({ diskId: disk.id, ...facts });
      entries.push(manifestEntry({ ...disk, ...facts }, parent));
    }
    await draftManifest(manifest, pointManifest(rows, entries));
    await sealJob(db, { id: job.id, snapshotId: job.snapshotIds.at(-1) }, sealed);
  } catch (error) {
    if (await isCleanedUp(db, job.id)) await removeMade(root, disks, manifest);
    throw error;
  }
}

/** Whether clean-up has taken over, and may have removed the files before a late attempt made them. */
async function isCleanedUp(db: Database, jobId: string): Promise<boolean> {
  const job = await findJob(db, jobId);
  return job?.status !== 'running' && job?.status !== 'complete';
}

/** Only what clean-up cannot have seen, and nothing next to a file that is there: that may be sealed. */
async function removeMade(root: string, disks: readonly BackupDisk[], manifest: string): Promise<void> {
  for (const { path } of disks) {
    if (!(await fileFacts(insideRepository(root, path))))
      await removeHashes(insideRepository(root, hashesFilePath(path)));
  }
  await removeFile(draftPath(manifest));
  for (const { path } of disks) await removeEmptyFolders(root, path);
}

/**
 * Checks one file, gives it its final name, and writes its block hashes beside it. A run that died after the move finds it there
 * already.
 */
async function finishFile(
  db: Database,
  root: string,
  { disk, parent }: { disk: BackupDisk; parent: BackupDisk | null },
  signal: AbortSignal,
): Promise<Omit<SealedDisk, 'diskId'>> {
  await requirePlainFolders(root, disk.path); // the manifest's folder is the uppermost of them
  const final = insideRepository(root, disk.path);
  const attempt = insideRepository(root, disk.attemptPath ?? disk.path);
  const path = disk.attemptPath !== null && (await fileFacts(attempt)) ? disk.attemptPath : disk.path;
  const parents = parent === null ? [] : await listChain(db, parent.id);
  await requireWhole(root, { ...disk, path }, parent);
  const checksum = await withPinnedChain(root, chainFiles([{ path }, ...parents]), async ([file]) => {
    await checkImage(file, signal);
    return fileChecksum(file, signal);
  });
  await moveIntoPlace(attempt, final);
  const facts = await fileFacts(final);
  if (!facts) throw new TypeError(`Expected ${final} after it was moved there, found none`);
  const hashesFile = insideRepository(root, hashesFilePath(disk.path));
  const parentHashes = hashesOf(root, parent);
  await withPinnedChain(root, chainFiles([disk, ...parents]), (files) =>
    writeBlockHashes({ files, format: 'qcow2', hashesFile, parentHashes, signal }),
  );
  return { checksum, hashesChecksum: await fileChecksum(hashesFile, signal), ...facts };
}

/** @throws BackupError CopyIncomplete for a file that is not what was to be made */
async function requireWhole(
  root: string,
  { path, sizeBytes }: Pick<BackupDisk, 'path' | 'sizeBytes'>,
  parent: BackupDisk | null,
): Promise<void> {
  const found = await inspectChainFile(root, { path, backingName: parent === null ? null : basename(parent.path) });
  const problem = 'problem' in found ? found.problem : `it is a disk of ${found.header.sizeBytes} bytes`;
  if ('header' in found && found.header.sizeBytes === sizeBytes) return;
  throw new BackupError(
    'CopyIncomplete',
    `cannot seal ${path} in the repository ${root}, made for a disk of ${sizeBytes} bytes: ${problem}; back up again`,
  );
}

/** The parent's block hashes: what is carried over from there, if they are as they were sealed, is not looked at again. */
function hashesOf(root: string, parent: BackupDisk | null): { path: string; checksum: string } | undefined {
  if (parent?.hashesChecksum == null) return undefined;
  return { path: insideRepository(root, hashesFilePath(parent.path)), checksum: parent.hashesChecksum };
}

export type SealActivities = ReturnType<typeof createSealActivities>;
