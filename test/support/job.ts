import { randomUUID } from 'node:crypto';
import type { Database } from '../../src/db/database.js';
import { getJob, insertJob, type Job, type NewJob } from '../../src/db/jobs.js';

/** A running job of a context, as `insertJob` makes it. */
export async function startJob(db: Database, job: Partial<NewJob> & { contextId: string }): Promise<Job> {
  const id = job.id ?? randomUUID();
  const result = await insertJob(db, { workflowId: `w/${id}`, runId: randomUUID(), ...job, id }, []);
  if (result.outcome !== 'inserted') throw new Error(`Expected the job inserted, found ${JSON.stringify(result)}`);
  return getJob(db, id);
}
