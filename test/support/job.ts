import { randomUUID } from 'node:crypto';
import type { Database } from '../../src/db/database.js';
import { claimInstallation, findInstallation } from '../../src/db/installations.js';
import { getJob, insertJob, type Job, type NewJob } from '../../src/db/jobs.js';
import type { Namespace } from '../../src/domain/namespace.js';

/** A running job of a context, as `insertJob` makes it. */
export async function startJob(db: Database, job: Partial<NewJob> & { contextId: string }): Promise<Job> {
  const id = job.id ?? randomUUID();
  const namespace = job.namespace ?? (await namespaceOf(db));
  const result = await insertJob(db, { workflowId: `w/${id}`, runId: randomUUID(), namespace, ...job, id }, []);
  if (result.outcome !== 'inserted') throw new Error(`Expected the job inserted, found ${JSON.stringify(result)}`);
  return getJob(db, id);
}

/** The namespace that the database belongs to; one that no server has, where none does yet. */
export async function namespaceOf(db: Database): Promise<Namespace> {
  const address = 'nowhere:7233';
  if (!(await findInstallation(db)))
    await claimInstallation(db, { id: randomUUID(), name: 'of-no-server', address }).catch(() => undefined); // another was faster
  const { namespaceId: id = '', namespace: name = '' } = (await findInstallation(db)) ?? {};
  return { id, name, address };
}
