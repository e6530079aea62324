import { basename } from 'node:path';
import type { Database } from '../db/database.js';
import { getDisk, listDisks, type BackupDisk } from '../db/disks.js';
import { findJob, sealJob, type SealedDisk } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';
import { hashesFilePath, manifestPath } from '../domain/names.js';
import { removeHashes, writeBlockHashes } from '../hashes/hash-disk.js';
import { checkImage, imageInfo } from '../qemu/qemu-img.js';
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
      const facts = await finishFile(root, disk, parent, signal);
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
  root: string,
  disk: BackupDisk,
  parent: BackupDisk | null,
  signal: AbortSignal,
): Promise<Omit<SealedDisk, 'diskId'>> {
  await requirePlainFolders(root, disk.path); // the manifest's folder is the uppermost of them
  const final = insideRepository(root, disk.path);
  const attempt = disk.attemptPath === null ? final : insideRepository(root, disk.attemptPath);
  const file = (await fileFacts(attempt)) ? attempt : final;
  await checkImage(file, signal); // opens the whole chain, so a missing ancestor shows here
  const info = await imageInfo(file, signal);
  const backingName = parent === null ? null : basename(parent.path);
  if (info.virtualSizeBytes !== disk.sizeBytes || info.backingName !== backingName) {
    throw new BackupError(
      'CopyIncomplete',
      `Expected ${file} with ${disk.sizeBytes} bytes on '${backingName ?? 'no parent'}', found ${info.virtualSizeBytes} on '${info.backingName ?? 'no parent'}'`,
    );
  }
  const checksum = await fileChecksum(file, signal);
  await moveIntoPlace(attempt, final);
  const facts = await fileFacts(final);
  if (!facts) throw new TypeError(`Expected ${final} after it was moved there, found none`);
  const hashesFile = insideRepository(root, hashesFilePath(disk.path));
  const parentHashesFile = await findHashes(root, parent, signal);
  await writeBlockHashes({ file: final, format: 'qcow2', hashesFile, parentHashesFile, signal });
  return { checksum, hashesChecksum: await fileChecksum(hashesFile, signal), ...facts };
}

/** The parent's block hashes, if they are as they were sealed: what is carried over from there is not looked at again. */
async function findHashes(root: string, parent: BackupDisk | null, signal: AbortSignal): Promise<string | undefined> {
  if (parent === null) return undefined;
  const file = insideRepository(root, hashesFilePath(parent.path));
  if (!(await fileFacts(file))) return undefined;
  return (await fileChecksum(file, signal)) === parent.hashesChecksum ? file : undefined;
}

export type SealActivities = ReturnType<typeof createSealActivities>;
