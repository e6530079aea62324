import { getContext, type Context } from '../db/contexts.js';
import type { Queryable } from '../db/database.js';
import { getHypervisor, type Hypervisor } from '../db/hypervisors.js';
import { getJob, type Job } from '../db/jobs.js';
import { getRepository, type RepositoryRow } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';

/** A job with all that it hangs on. */
export interface JobRows {
  job: Job;
  context: Context;
  hypervisor: Hypervisor;
  repository: RepositoryRow;
}

/** @throws BackupError JobNotFound */
export async function getJobRows(db: Queryable, jobId: string): Promise<JobRows> {
  const job = await getJob(db, jobId);
  const context = await getContext(db, job.contextId);
  const hypervisor = await getHypervisor(db, context.hypervisorId);
  const repository = await getRepository(db, context.repositoryId);
  return { job, context, hypervisor, repository };
}

/** @throws BackupError WrongHost when a step that belongs to one host was taken by a worker that calls itself another */
export function requireHost(host: string, owner: { name: string; host: string }): void {
  if (owner.host === host) return;
  throw new BackupError(
    'WrongHost',
    `'${owner.name}' belongs to host '${owner.host}', found this worker on '${host}'; check BACKUPVM_HOST`,
  );
}
