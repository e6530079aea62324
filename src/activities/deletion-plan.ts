import { findContextByName } from '../db/contexts.js';
import type { Database, Queryable } from '../db/database.js';
import { lookUpPlan } from '../db/deletions.js';
import { getDisk, listDisksOfJobs } from '../db/disks.js';
import { getJob } from '../db/jobs.js';
import { findPoint, listPoints } from '../db/points.js';
import { getRepository } from '../db/repositories.js';
import type { DeletionPlan, Descendants } from '../domain/deletion.js';

/** What a deletion means: one restore point, or all there are of one VM in one repository. */
export interface DeletionTarget {
  contextId: string;
  vm: string;
  repository: string;
  /** Of the repository. */
  host: string;
  /** Null: all restore points of the context, and the context itself. */
  jobIds: string[] | null;
}

/** A restore point that goes. */
export interface DeletedPoint {
  jobId: string;
  pointTime: string;
  /** What its own files hold. */
  fileBytes: number;
  /** The restore points that get its data. */
  mergedInto: string[];
}

/** Steps of a deletion that need the database only, and change nothing. */
export function createDeletionPlanActivities({ db }: { db: Database }) {
  return {
    /** Finds what the input means. @throws BackupError PointNotFound, ContextNotFound, InvalidInput */
    async lookUpDeletion(input: {
      point?: string | undefined;
      vm?: string | undefined;
      all: boolean;
      repository?: string | undefined;
      hypervisor?: string | undefined;
    }): Promise<DeletionTarget> {
      const { all, ...query } = input;
      if (query.point !== undefined) {
        const { job, context, repository } = await findPoint(db, query);
        const { name, host } = repository;
        return { contextId: context.id, vm: context.vmName, repository: name, host, jobIds: all ? null : [job.id] };
      }
      const context = await findContextByName(db, { ...query, vm: query.vm ?? '' });
      const { name, host } = await getRepository(db, context.repositoryId);
      return { contextId: context.id, vm: context.vmName, repository: name, host, jobIds: null };
    },

    /** Says what a deletion would do, or why it is refused. */
    async previewDeletion(input: {
      contextId: string;
      jobIds: string[] | null;
      descendants: Descendants;
    }): Promise<DeletedPoint[]> {
      const { contextId, descendants } = input;
      const jobIds = input.jobIds ?? (await listPoints(db, contextId)).map(({ id }) => id);
      return describeDeletion(db, await lookUpPlan(db, { contextId, jobIds, descendants }));
    },
  };
}

/** The restore points that a plan takes away, oldest first. */
export async function describeDeletion(db: Queryable, { jobIds, merges }: DeletionPlan): Promise<DeletedPoint[]> {
  const disks = await listDisksOfJobs(db, jobIds);
  const points: DeletedPoint[] = [];
  for (const jobId of jobIds) {
    const { pointTime } = await getJob(db, jobId);
    const own = disks.get(jobId) ?? [];
    const mergedInto = new Set<string>();
    for (const { memberIds, successorId } of merges) {
      if (own.some(({ id }) => memberIds.includes(id))) mergedInto.add((await getDisk(db, successorId)).jobId);
    }
    const fileBytes = own.reduce((sum, disk) => sum + (disk.fileBytes ?? 0), 0);
    points.push({ jobId, pointTime: pointTime.toISOString(), fileBytes, mergedInto: [...mergedInto] });
  }
  return points.sort((a, b) => a.pointTime.localeCompare(b.pointTime));
}

export type DeletionPlanActivities = ReturnType<typeof createDeletionPlanActivities>;
