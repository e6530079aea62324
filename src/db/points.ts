import { and, asc, desc, eq, lte, sql, type SQL } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import type { Context } from './contexts.js';
import type { Queryable } from './database.js';
import { findJobListing, type Job } from './jobs.js';
import type { RepositoryRow } from './repositories.js';
import { backupJobs, hypervisors, repositories, vmBackupContexts } from './schema.js';

/** A restore point with what it belongs to. */
export interface Point {
  job: Job;
  context: Context;
  repository: RepositoryRow;
}

/** Which restore point is meant: one by the beginning of its id, or a VM's newest, at or before a moment if one is given. */
export interface PointQuery {
  point?: string | undefined;
  /** The name of a VM. */
  vm?: string | undefined;
  at?: Date | undefined;
  repository?: string | undefined;
  hypervisor?: string | undefined;
}

/**
 * The one restore point that is meant. One that is being deleted is none any more.
 * @throws BackupError PointNotFound, which says what was found instead; InvalidInput when it is not clear which VM is meant
 */
export async function findPoint(db: Queryable, query: PointQuery): Promise<Point> {
  return query.point === undefined ? findNewest(db, query) : findById(db, query, query.point);
}

/** The restore points of a context, oldest first. */
export async function listPoints(db: Queryable, contextId: string): Promise<Job[]> {
  return db
    .select()
    .from(backupJobs)
    .where(and(eq(backupJobs.contextId, contextId), eq(backupJobs.status, 'complete')))
    .orderBy(asc(backupJobs.pointTime));
}

async function findById(db: Queryable, query: PointQuery, idPrefix: string): Promise<Point> {
  const isMeant = and(
    sql`starts_with(${backupJobs.id}::text, ${idPrefix.toLowerCase()})`,
    sql`${backupJobs.status} in ('complete', 'deleting')`,
    ...ownerConditions(query),
  );
  const found = await selectPoints(db, isMeant).limit(2);
  const [first] = found;
  if (first && found.length === 1) {
    if (first.job.status === 'complete') return first;
    throw new BackupError('PointNotFound', `Restore point ${first.job.id} is being deleted; choose another one`);
  }
  const problem = first ? 'several begin with it: give more of the id' : await whatElse(db, idPrefix);
  throw new BackupError(
    'PointNotFound',
    `Expected one restore point with the id '${idPrefix}', ${problem}; see 'backupvm point list'`,
  );
}

/** A job that made no point is easily taken for one. */
async function whatElse(db: Queryable, idPrefix: string): Promise<string> {
  try {
    const { job, vm } = await findJobListing(db, idPrefix);
    return job.status === 'complete' ? `found one of VM '${vm}'` : `found a job that is ${job.status}`;
  } catch (error) {
    if (error instanceof BackupError && error.code === 'JobNotFound') return 'found none';
    throw error;
  }
}

async function findNewest(db: Queryable, query: PointQuery): Promise<Point> {
  const isMeant = and(eq(backupJobs.status, 'complete'), ...ownerConditions(query));
  await requireOneHypervisor(db, query, isMeant);
  const inTime = query.at === undefined ? undefined : lte(backupJobs.pointTime, query.at);
  const [newest] = await selectPoints(db, and(isMeant, inTime)).orderBy(desc(backupJobs.pointTime)).limit(1);
  if (newest) return newest;
  const [oldest] = await selectPoints(db, isMeant).orderBy(asc(backupJobs.pointTime)).limit(1);
  const where = query.repository === undefined ? '' : ` in repository '${query.repository}'`;
  const when = query.at === undefined ? '' : ` at or before ${query.at.toISOString()}`;
  const instead = oldest ? `the oldest is of ${oldest.job.pointTime.toISOString()}` : 'none';
  throw new BackupError(
    'PointNotFound',
    `Expected a restore point of VM '${query.vm ?? ''}'${where}${when}, found ${instead}; see 'backupvm point list'`,
  );
}

/** Two VMs of one name on two hypervisors have nothing to do with each other. */
async function requireOneHypervisor(db: Queryable, { vm }: PointQuery, isMeant: SQL | undefined): Promise<void> {
  const rows = await db
    .selectDistinct({ name: hypervisors.name })
    .from(backupJobs)
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.id, backupJobs.contextId))
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId))
    .innerJoin(hypervisors, eq(hypervisors.id, vmBackupContexts.hypervisorId))
    .where(isMeant)
    .orderBy(hypervisors.name);
  if (rows.length <= 1) return;
  const names = rows.map(({ name }) => `'${name}'`).join(', ');
  throw new BackupError(
    'InvalidInput',
    `Expected restore points of one VM '${vm ?? ''}', found some on each of the hypervisors ${names}; say which in the field 'hypervisor'`,
  );
}

function ownerConditions({ vm, repository, hypervisor }: PointQuery): SQL[] {
  return [
    ...(vm === undefined ? [] : [eq(vmBackupContexts.vmName, vm)]),
    ...(repository === undefined ? [] : [eq(repositories.name, repository)]),
    ...(hypervisor === undefined ? [] : [eq(hypervisors.name, hypervisor)]),
  ];
}

function selectPoints(db: Queryable, condition: SQL | undefined) {
  return db
    .select({ job: backupJobs, context: vmBackupContexts, repository: repositories })
    .from(backupJobs)
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.id, backupJobs.contextId))
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId))
    .innerJoin(hypervisors, eq(hypervisors.id, vmBackupContexts.hypervisorId))
    .where(condition);
}
