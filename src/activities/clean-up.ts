import { forgetAttempts, forgetChangeIds, listDisks, obsoleteChangeIds } from '../db/disks.js';
import { listExports, releasePort } from '../db/exports.js';
import { abortUnlessSealed } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';
import { manifestPath } from '../domain/names.js';
import { insideRepository, removeEmptyFolders, removeFile } from '../repository/files.js';
import { removeManifest } from '../repository/manifest.js';
import { requireRepository } from '../repository/marker.js';
import { changeIdOf } from '../sources/source.js';
import type { HostDependencies } from './dependencies.js';
import { stopExportProcess } from './export-process.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost, type JobRows } from './job-rows.js';

export function createCleanUpActivities({ db, host, createSource }: HostDependencies) {
  return {
    /**
     * The compensation of a job, keyed by its rows and by nothing that an activity returned: stops every export, gives the
     * ports back, ends the hypervisor's snapshot; for a job that was not sealed also drops its own change ids and removes its
     * unfinished files; for one that was, drops the change ids that it replaced. Safe to repeat, and after a crash in the middle.
     */
    async cleanUp(input: { jobId: string }): Promise<void> {
      const outcome = await abortUnlessSealed(db, input.jobId);
      if (outcome === 'gone') return; // the run ended before its job was inserted
      const rows = await getJobRows(db, input.jobId);
      requireHost(host, rows.repository);
      await heartbeating(async (signal) => {
        // What holds the guest comes first, and no step that fails keeps the others from running.
        const steps = [() => closeSnapshot(rows, signal), () => stopExports(rows.job.id)];
        if (outcome === 'sealed') steps.push(() => dropObsoleteChangeIds(rows, signal));
        else
          steps.push(
            () => dropOwnChangeId(rows, signal),
            () => removeUnfinishedFiles(rows),
          );
        await runAll(rows.job.id, steps);
      });
    },
  };

  async function closeSnapshot({ job, context, hypervisor }: JobRows, signal: AbortSignal): Promise<void> {
    await createSource(hypervisor).closeSnapshot(context.vmId, job.id, signal);
  }

  async function stopExports(jobId: string): Promise<void> {
    for (const lease of await listExports(db, jobId)) {
      await stopExportProcess(lease);
      await releasePort(db, lease);
    }
  }

  async function dropObsoleteChangeIds({ context, hypervisor }: JobRows, signal: AbortSignal): Promise<void> {
    const changeIds = await obsoleteChangeIds(db, context.id);
    await createSource(hypervisor).dropChangeIds(context.vmId, changeIds, signal);
    await forgetChangeIds(db, context.id, changeIds);
  }

  async function dropOwnChangeId({ job, context, hypervisor }: JobRows, signal: AbortSignal): Promise<void> {
    await createSource(hypervisor).dropChangeIds(context.vmId, [changeIdOf(job.id)], signal);
  }

  /** Only names that this job alone has used: its attempts, and the final name of a disk whose copy it had finished. */
  async function removeUnfinishedFiles({ job, context, repository }: JobRows): Promise<void> {
    const disks = (await listDisks(db, job.id)).filter((disk) => disk.attemptPath !== null);
    if (disks.length === 0) return;
    if ((await listExports(db, job.id)).length > 0) {
      throw new BackupError(
        'ExportFailed',
        `Expected every export of job ${job.id} stopped before its files go, found one that is not`,
      );
    }
    await requireRepository(repository.path, repository.id);
    for (const disk of disks) {
      if (disk.attemptPath !== null) await removeFile(insideRepository(repository.path, disk.attemptPath));
      if (disk.status === 'copied') await removeFile(insideRepository(repository.path, disk.path));
      await removeEmptyFolders(repository.path, disk.path);
    }
    await removeManifest(insideRepository(repository.path, manifestPath(context.directory, job.pointTime)));
    await removeEmptyFolders(repository.path, manifestPath(context.directory, job.pointTime));
    await forgetAttempts(db, job.id);
  }
}

/** Runs every step, and only then says which failed. Never a permanent error, whatever each was: clean-up is not given up. */
async function runAll(jobId: string, steps: readonly (() => Promise<void>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps) await step().catch((error: unknown) => failures.push(error));
  if (failures.length === 0) return;
  const said = failures.map((failure) => (failure instanceof Error ? failure.message : String(failure))).join('; ');
  throw new BackupError('CleanUpFailed', `Clean-up of job ${jobId} could not finish, and goes on: ${said}`, {
    cause: failures[0],
  });
}

export type CleanUpActivities = ReturnType<typeof createCleanUpActivities>;
