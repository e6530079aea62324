import type { Database } from '../db/database.js';
import { forgetAttempts, forgetChangeIds, listDisks, obsoleteChangeIds } from '../db/disks.js';
import { listExports, releasePort } from '../db/exports.js';
import { abortUnlessSealed, closeJob, recordCleanUp } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { hashesFilePath, manifestPath } from '../domain/names.js';
import { removeHashes } from '../hashes/hash-disk.js';
import { draftPath } from '../repository/durable.js';
import { areOneFile, insideRepository, removeEmptyFolders, removeFile } from '../repository/files.js';
import { probeRepository, requireRepository } from '../repository/marker.js';
import { changeIdOf, type Source } from '../sources/source.js';
import type { HostDependencies } from './dependencies.js';
import { stopExportProcess } from './export-process.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost, type JobRows } from './job-rows.js';
import { publishPoint } from './point-manifest.js';
import { requireCurrent } from './repository-epoch.js';
import { findClaim, repositoryAhead } from './sealed-files.js';

export function createCleanUpActivities(dependencies: HostDependencies) {
  return {
    /** The compensation of a job: `cleanUpJob`, with heartbeats. */
    async cleanUp(input: { jobId: string }): Promise<void> {
      await heartbeating((signal) => cleanUpJob(dependencies, input.jobId, signal));
    },
  };
}

/**
 * The compensation of a job, keyed by its rows and by nothing that an activity returned: stops every export, releases the ports,
 * ends the hypervisor's snapshot; for a job that was not sealed also drops its own change id and removes its unfinished
 * files; for one that was, drops the change ids that it replaced. Safe to repeat, and after a crash in the middle.
 * What the repository knows to be sealed stays, whatever the row says: with an older database nothing is dropped or removed.
 * @throws BackupError CleanUpFailed: what could not be done is still recorded, its ports are still leased
 */
export async function cleanUpJob(dependencies: HostDependencies, jobId: string, signal: AbortSignal): Promise<void> {
  const { db, host } = dependencies;
  const outcome = await abortUnlessSealed(db, jobId);
  if (outcome === 'gone') return; // the run ended before its job was inserted
  const rows = await getJobRows(db, jobId);
  requireHost(host, rows.repository);
  const source = dependencies.createSource(rows.hypervisor);
  const { vmId } = rows.context;
  const { snapshotIds } = rows.job;
  const seal = outcome === 'sealed' ? Promise.resolve(undefined) : findSeal(db, rows);
  seal.catch(() => undefined); // the steps that need it say so
  // What holds the guest comes first, and no step that fails keeps the others from running.
  const steps = [
    ...snapshotIds.map((id) => () => source.closeSnapshot(vmId, id, signal)),
    () => stopExports(dependencies, jobId),
  ];
  if (outcome === 'sealed') {
    // Also those of attempts at its snapshot that were overtaken.
    const overtaken = snapshotIds.slice(0, -1).map(changeIdOf);
    if (overtaken.length > 0) steps.push(() => source.dropChangeIds(vmId, overtaken, signal));
    steps.push(
      () => dropObsoleteChangeIds(db, rows, source, signal),
      () => finishSeal(db, rows),
    );
  } else {
    steps.push(
      async () => {
        if ((await seal) === undefined) await source.dropChangeIds(vmId, snapshotIds.map(changeIdOf), signal);
      },
      async () => {
        await ((await seal) === undefined ? removeUnfinishedFiles(db, rows) : forgetAttempts(db, jobId));
      },
    );
  }
  const problem = await runAll(steps);
  await recordCleanUp(db, jobId, problem ?? null);
  // Never a permanent error, whatever it was: clean-up is not given up.
  if (problem !== undefined)
    throw new BackupError('CleanUpFailed', `Clean-up of job ${jobId} is not done yet: ${problem}`);
  const claim = await seal;
  if (claim !== undefined) await closeJob(db, jobId, 'failed', repositoryAhead(rows.repository, claim).message);
}

/**
 * What in the repository says that a job was sealed which is not by its row; undefined where nothing does, or where the job wrote
 * nothing there and the repository is what is missing.
 * @throws BackupError RepositoryAhead when the database is older: it cannot tell what is sealed, until it is brought up to date
 */
async function findSeal(db: Database, rows: JobRows): Promise<string | undefined> {
  const { job, repository } = rows;
  const disks = await listDisks(db, job.id);
  try {
    await requireRepository(repository.path, repository.id);
    await requireCurrent(db, repository);
    return await findClaim(rows, disks);
  } catch (error) {
    const isGone = error instanceof BackupError && error.code === 'RepositoryUnusable';
    if (isGone && disks.every(({ attemptPath }) => attemptPath === null)) return undefined;
    throw error;
  }
}

/** The manifest of a sealed job, which a crash after the seal may have left a draft. */
async function finishSeal(db: Database, { job, repository }: JobRows): Promise<void> {
  await requireRepository(repository.path, repository.id);
  await requireCurrent(db, repository);
  await publishPoint(db, job.id);
}

async function stopExports(dependencies: HostDependencies, jobId: string): Promise<void> {
  for (const lease of await listExports(dependencies.db, jobId)) {
    await stopExportProcess(dependencies, lease);
    await releasePort(dependencies.db, lease);
  }
}

async function dropObsoleteChangeIds(
  db: Database,
  { context }: JobRows,
  source: Source,
  signal: AbortSignal,
): Promise<void> {
  const changeIds = await obsoleteChangeIds(db, context.id);
  await source.dropChangeIds(context.vmId, changeIds, signal);
  await forgetChangeIds(db, context.id, changeIds);
}

/** Only what this job made: its attempts, and the final name of a disk whose copy it had finished, where another file has not taken it. */
async function removeUnfinishedFiles(db: Database, { job, context, repository }: JobRows): Promise<void> {
  const disks = (await listDisks(db, job.id)).filter((disk) => disk.attemptPath !== null);
  if (disks.length === 0) return;
  if ((await listExports(db, job.id)).length > 0) {
    throw new BackupError(
      'ExportFailed',
      `cannot remove the files of job ${job.id}: one of its exports was not stopped`,
    );
  }
  const root = repository.path;
  await probeRepository(root, repository.id);
  for (const disk of disks) {
    const attempt = insideRepository(root, disk.attemptPath ?? disk.path);
    const final = insideRepository(root, disk.path);
    if (disk.finishedAt !== null && (await areOneFile(attempt, final)) !== false) {
      await removeFile(final);
      await removeHashes(insideRepository(root, hashesFilePath(disk.path)));
    }
    await removeFile(attempt);
    await removeEmptyFolders(root, disk.path);
  }
  const manifest = manifestPath(context.directory, job.pointTime);
  await removeFile(draftPath(insideRepository(root, manifest)));
  await removeEmptyFolders(root, manifest);
  await forgetAttempts(db, job.id);
}

/** Runs every step, whatever the others do. @returns what kept those that failed, or undefined */
async function runAll(steps: readonly (() => Promise<void>)[]): Promise<string | undefined> {
  const failures: string[] = [];
  for (const step of steps) {
    await step().catch((error: unknown) => failures.push(messageOf(error)));
  }
  return failures.length > 0 ? [...new Set(failures)].join('; ') : undefined;
}

export type CleanUpActivities = ReturnType<typeof createCleanUpActivities>;
