import type { Database } from '../db/database.js';
import { forgetAttempts, forgetChangeIds, listDisks, obsoleteChangeIds } from '../db/disks.js';
import { listExports, releasePort } from '../db/exports.js';
import { abortUnlessSealed, recordCleanUp } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { hashesFilePath, manifestPath } from '../domain/names.js';
import { removeHashes } from '../hashes/hash-disk.js';
import { insideRepository, removeEmptyFolders, removeFile } from '../repository/files.js';
import { removeManifest } from '../repository/manifest.js';
import { probeRepository } from '../repository/marker.js';
import { changeIdOf, type Source } from '../sources/source.js';
import type { HostDependencies } from './dependencies.js';
import { stopExportProcess } from './export-process.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost, type JobRows } from './job-rows.js';

export function createCleanUpActivities(dependencies: HostDependencies) {
  return {
    /** The compensation of a job: `cleanUpJob`, with heartbeats. */
    async cleanUp(input: { jobId: string }): Promise<void> {
      await heartbeating((signal) => cleanUpJob(dependencies, input.jobId, signal));
    },
  };
}

/**
 * The compensation of a job, keyed by its rows and by nothing that an activity returned: stops every export, gives the ports
 * back, ends the hypervisor's snapshot; for a job that was not sealed also drops its own change id and removes its unfinished
 * files; for one that was, drops the change ids that it replaced. Safe to repeat, and after a crash in the middle.
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
  // What holds the guest comes first, and no step that fails keeps the others from running.
  const steps = [
    ...snapshotIds.map((id) => () => source.closeSnapshot(vmId, id, signal)),
    () => stopExports(dependencies, jobId),
  ];
  if (outcome === 'sealed') {
    // Also those of attempts at its snapshot that were overtaken.
    const overtaken = snapshotIds.slice(0, -1).map(changeIdOf);
    if (overtaken.length > 0) steps.push(() => source.dropChangeIds(vmId, overtaken, signal));
    steps.push(() => dropObsoleteChangeIds(db, rows, source, signal));
  } else {
    steps.push(
      () => source.dropChangeIds(vmId, snapshotIds.map(changeIdOf), signal),
      () => removeUnfinishedFiles(db, rows),
    );
  }
  const problem = await runAll(steps);
  await recordCleanUp(db, jobId, problem ?? null);
  // Never a permanent error, whatever it was: clean-up is not given up.
  if (problem !== undefined)
    throw new BackupError('CleanUpFailed', `Clean-up of job ${jobId} is not done yet: ${problem}`);
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

/** Only names that this job alone has used: its attempts, and the final name of a disk whose copy it had finished. */
async function removeUnfinishedFiles(db: Database, { job, context, repository }: JobRows): Promise<void> {
  const disks = (await listDisks(db, job.id)).filter((disk) => disk.attemptPath !== null);
  if (disks.length === 0) return;
  if ((await listExports(db, job.id)).length > 0) {
    throw new BackupError(
      'ExportFailed',
      `Expected every export of job ${job.id} stopped before its files go, found one that is not`,
    );
  }
  const root = repository.path;
  await probeRepository(root, repository.id);
  for (const disk of disks) {
    if (disk.attemptPath !== null) await removeFile(insideRepository(root, disk.attemptPath));
    if (disk.finishedAt !== null) {
      await removeFile(insideRepository(root, disk.path));
      await removeHashes(insideRepository(root, hashesFilePath(disk.path)));
    }
    await removeEmptyFolders(root, disk.path);
  }
  const manifest = manifestPath(context.directory, job.pointTime);
  await removeManifest(insideRepository(root, manifest));
  await removeEmptyFolders(root, manifest);
  await forgetAttempts(db, job.id);
}

/** Runs every step, whatever the others do. @returns what kept those that failed, or undefined */
async function runAll(steps: readonly (() => Promise<void>)[]): Promise<string | undefined> {
  const failures: string[] = [];
  for (const step of steps) {
    await step().catch((error: unknown) => failures.push(messageOf(error)));
  }
  return failures.length > 0 ? failures.join('; ') : undefined;
}

export type CleanUpActivities = ReturnType<typeof createCleanUpActivities>;
