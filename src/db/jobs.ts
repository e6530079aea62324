import { and, desc, eq, exists, inArray, isNotNull, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import type { Namespace } from '../domain/namespace.js';
import { exclusiveHolder, lockContext, type ChainHolder } from './chain-leases.js';
import { inheritDamage } from './damage.js';
import { type Database, type Queryable, violatesUnique } from './database.js';
import { requireInstallation } from './installations.js';
import { moveEpoch } from './repositories.js';
import { backupDisks, backupJobs, repositories, vmBackupContexts } from './schema.js';

export type Job = typeof backupJobs.$inferSelect;
export type JobStatus = Job['status'];

export interface NewJob {
  id: string;
  contextId: string;
  workflowId: string;
  runId: string;
  namespace: Namespace;
}

/**
 * `inserted`; or why not: `stale`, when the plan's parents are no heads any more; who has to end first; or the job that an
 * earlier run of the same workflow left behind, which has to be cleaned up first.
 */
export type InsertedJob =
  | { outcome: 'inserted' }
  | { outcome: 'stale' }
  | { outcome: 'waits'; holder: ChainHolder }
  | { outcome: 'orphaned'; jobId: string };

/**
 * Inserts the parent row of a backup, unless somebody changes or removes restore points of the context. `parentIds`: the backup
 * disks that the plan builds upon. Safe to repeat with the same id.
 * @throws BackupError BackupAlreadyRunning when the context has another running job, whoever started it
 */
export async function insertJob(db: Database, newJob: NewJob, parentIds: readonly string[]): Promise<InsertedJob> {
  const { namespace, ...run } = newJob;
  const job = { ...run, namespaceId: namespace.id };
  const pointTime = sql`greatest(
    date_trunc('second', now()),
    (select max(${backupJobs.pointTime}) + interval '1 second' from ${backupJobs} where ${backupJobs.contextId} = ${job.contextId})
  )`;
  try {
    return await db.transaction(async (tx) => {
      await lockContext(tx, job.contextId);
      await requireInstallation(tx, namespace);
      const { rowCount } = await tx.update(backupJobs).set({ runId: job.runId }).where(eq(backupJobs.id, job.id));
      if (rowCount === 1) return { outcome: 'inserted' }; // before, maybe by the run that this one was reset from
      const holder = await exclusiveHolder(tx, job.contextId);
      if (holder) return { outcome: 'waits', holder };
      if (!(await areHeads(tx, parentIds))) return { outcome: 'stale' };
      await tx.insert(backupJobs).values({ ...job, pointTime });
      return { outcome: 'inserted' };
    });
  } catch (error) {
    if (error instanceof BackupError && error.code === 'ContextNotFound') return { outcome: 'stale' }; // deleted since the plan
    if (violatesUnique(error, 'backup_jobs_point_time')) return insertJob(db, newJob, parentIds); // another start, in this very moment
    if (!violatesUnique(error, 'backup_jobs_one_running')) throw error;
    const running = await runningJob(db, job.contextId);
    if (!running) return insertJob(db, newJob, parentIds); // it ended between the two statements
    // One run of a workflow is open at a time in a namespace, and it is this one.
    if (running.workflowId === job.workflowId && running.namespaceId === job.namespaceId)
      return { outcome: 'orphaned', jobId: running.id };
    throw new BackupError(
      'BackupAlreadyRunning',
      `A backup of this VM to this repository is ${running.status} already: job ${running.id}, workflow '${running.workflowId}'${
        running.namespaceId === job.namespaceId ? '' : ` of Temporal namespace ${running.namespaceId}`
      }; wait for it, or cancel it`,
    );
  }
}

async function areHeads(tx: Queryable, diskIds: readonly string[]): Promise<boolean> {
  if (diskIds.length === 0) return true;
  const heads = await tx
    .select({ id: backupDisks.id })
    .from(backupDisks)
    .where(and(inArray(backupDisks.id, [...diskIds]), backupDisks.isHead));
  return heads.length === diskIds.length;
}

async function runningJob(db: Queryable, contextId: string): Promise<Job | undefined> {
  const [row] = await db
    .select()
    .from(backupJobs)
    .where(and(eq(backupJobs.contextId, contextId), inArray(backupJobs.status, ['running', 'aborting'])));
  return row;
}

/** @throws BackupError JobNotFound */
export async function getJob(db: Queryable, id: string): Promise<Job> {
  const job = await findJob(db, id);
  if (!job) throw new BackupError('JobNotFound', `Expected job ${id}, found no such row; see 'backupvm job list'`);
  return job;
}

export async function findJob(db: Queryable, id: string): Promise<Job | undefined> {
  const [row] = await db.select().from(backupJobs).where(eq(backupJobs.id, id));
  return row;
}

/**
 * Decides whether a job that is being cleaned up is a restore point. One that was not sealed cannot be from here on: a late
 * seal finds it `aborting`. Safe to repeat.
 */
export async function abortUnlessSealed(db: Queryable, id: string): Promise<'sealed' | 'aborting' | 'gone'> {
  await db
    .update(backupJobs)
    .set({ status: 'aborting' })
    .where(and(eq(backupJobs.id, id), eq(backupJobs.status, 'running')));
  const job = await findJob(db, id);
  if (!job) return 'gone';
  return job.status === 'complete' ? 'sealed' : 'aborting';
}

/** Closes a job that made no restore point, once its clean-up is done. A sealed job stays sealed. Safe to repeat. */
export async function closeJob(
  db: Queryable,
  id: string,
  status: 'failed' | 'cancelled',
  error: string,
): Promise<void> {
  await db
    .update(backupJobs)
    .set({ status, error, finishedAt: sql`now()` })
    .where(and(eq(backupJobs.id, id), inArray(backupJobs.status, ['running', 'aborting'])));
}

/** Records how a try of the clean-up ended: null when nothing of the run is left. Safe to repeat. */
export async function recordCleanUp(db: Queryable, id: string, error: string | null): Promise<void> {
  const values = error === null ? ({ cleanUp: 'done', cleanUpError: null } as const) : { cleanUpError: error };
  await db.update(backupJobs).set(values).where(eq(backupJobs.id, id));
}

export interface SealedDisk {
  diskId: string;
  checksum: string;
  hashesChecksum: string;
  fileBytes: number;
  fileModifiedMs: number;
}

/**
 * The one transaction that makes a job a restore point: its disks complete, its change ids good, the heads of its chains moved.
 * The epoch of the repository moves with it. Safe to repeat.
 * @param snapshotId the snapshot that the files were copied from: with another one open, the change ids are of another moment
 * @throws TypeError when the job has been closed or started over meanwhile, or a disk of it is missing from `disks`
 */
export async function sealJob(
  db: Database,
  { id: jobId, snapshotId }: { id: string; snapshotId: string | undefined },
  disks: readonly SealedDisk[],
): Promise<void> {
  const { contextId } = await getJob(db, jobId);
  await db.transaction(async (tx) => {
    await moveEpoch(tx, contextId); // the row of the repository is locked before those of jobs
    const [job] = await tx.select().from(backupJobs).where(eq(backupJobs.id, jobId)).for('update');
    if (job?.status === 'complete') return;
    if (job?.status !== 'running')
      throw new TypeError(`Expected job ${jobId} running, found it ${job?.status ?? 'gone'}`);
    if (job.snapshotIds.at(-1) !== snapshotId)
      throw new TypeError(`Expected job ${jobId} with the snapshot that was copied, found another one open`);
    const rows = await tx.select().from(backupDisks).where(eq(backupDisks.jobId, jobId));
    for (const row of rows) {
      const sealed = disks.find((disk) => disk.diskId === row.id);
      if (!sealed || row.status !== 'copied')
        throw new TypeError(`Expected disk '${row.diskKey}' copied and checked, found it ${row.status}`);
      await tx
        .update(backupDisks)
        .set({ isHead: false })
        .where(and(eq(backupDisks.contextId, row.contextId), eq(backupDisks.diskKey, row.diskKey), backupDisks.isHead));
      await tx
        .update(backupDisks)
        .set({
          status: 'complete',
          checksum: sealed.checksum,
          hashesChecksum: sealed.hashesChecksum,
          fileBytes: sealed.fileBytes,
          fileModifiedMs: sealed.fileModifiedMs,
          attemptPath: null,
          sourceUri: null,
          dirtyContext: null,
          isHead: true,
        })
        .where(eq(backupDisks.id, row.id));
    }
    await inheritDamage(tx, jobId); // a verification may have found it since the plan was made
    await tx
      .update(backupJobs)
      .set({ status: 'complete', finishedAt: sql`now()` })
      .where(eq(backupJobs.id, jobId));
  });
}

/** A job with the names that people know it by. */
export interface JobListing {
  job: Job;
  vm: string;
  repository: string;
}

export interface JobFilter {
  vm?: string | undefined;
  repository?: string | undefined;
  status?: JobStatus | undefined;
  limit: number;
}

/** Jobs, newest first. Those with status `complete` are the restore points. */
export async function listJobs(db: Queryable, filter: JobFilter): Promise<JobListing[]> {
  return selectListing(db)
    .where(
      and(
        filter.vm === undefined ? undefined : eq(vmBackupContexts.vmName, filter.vm),
        filter.repository === undefined ? undefined : eq(repositories.name, filter.repository),
        filter.status === undefined ? undefined : eq(backupJobs.status, filter.status),
      ),
    )
    .orderBy(desc(backupJobs.startedAt), desc(backupJobs.pointTime))
    .limit(filter.limit);
}

/** The job whose id begins with `idPrefix`. @throws BackupError JobNotFound, also when several do */
export async function findJobListing(db: Queryable, idPrefix: string): Promise<JobListing> {
  const found = await selectListing(db)
    .where(sql`starts_with(${backupJobs.id}::text, ${idPrefix.toLowerCase()})`)
    .limit(2);
  const [first] = found;
  if (first && found.length === 1) return first;
  const problem = first ? 'several begin with it: give more of the id' : 'found none';
  throw new BackupError(
    'JobNotFound',
    `Expected one job with the id '${idPrefix}', ${problem}; see 'backupvm job list'`,
  );
}

function selectListing(db: Queryable) {
  return db
    .select({ job: backupJobs, vm: vmBackupContexts.vmName, repository: repositories.name })
    .from(backupJobs)
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.id, backupJobs.contextId))
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId));
}

export interface LastPoint {
  vmId: string;
  jobId: string;
  pointTime: Date;
  repository: string;
  damaged: boolean;
}

/** The newest restore point of each VM of a hypervisor, in whichever repository. */
export async function lastPoints(db: Database, hypervisorId: string): Promise<LastPoint[]> {
  return db
    .selectDistinctOn([vmBackupContexts.vmId], {
      vmId: vmBackupContexts.vmId,
      jobId: backupJobs.id,
      pointTime: backupJobs.pointTime,
      repository: repositories.name,
      damaged: sql<boolean>`${exists(
        db
          .select({ id: backupDisks.id })
          .from(backupDisks)
          .where(and(eq(backupDisks.jobId, backupJobs.id), isNotNull(backupDisks.damage))),
      )}`,
    })
    .from(backupJobs)
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.id, backupJobs.contextId))
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId))
    .where(and(eq(vmBackupContexts.hypervisorId, hypervisorId), eq(backupJobs.status, 'complete')))
    .orderBy(vmBackupContexts.vmId, desc(backupJobs.pointTime));
}
