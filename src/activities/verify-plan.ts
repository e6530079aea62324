import type { Database } from '../db/database.js';
import { listDisksOfJobs, type BackupDisk } from '../db/disks.js';
import { findPoint, listPoints } from '../db/points.js';
import type { Job } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';

/** What is to be verified. */
export interface VerificationSubject {
  contextId: string;
  vm: string;
  repository: string;
  /** The repository's: every file is read there. */
  host: string;
  /** The one point; null where all of the VM's are meant. */
  pointId: string | null;
}

/** The files of one disk that build upon one full, oldest first. */
export interface VerificationChain {
  /** Of the full: names the chain. */
  key: string;
  target: string;
  diskIds: string[];
  /** Those whose content is compared where the level asks for it: of the points, and of what is marked as damaged. */
  contentIds: string[];
  /** Of all files together. */
  fileBytes: number;
}

export interface VerificationPlan {
  points: { pointId: string; pointTime: string }[];
  chains: VerificationChain[];
}

/** What a verification asks the record: steps that need the database only. */
export function createVerifyPlanActivities({ db }: { db: Database }) {
  return {
    /** Finds the restore point that the input means, or the VM whose points are all meant. */
    async lookUpVerification(input: {
      point?: string | undefined;
      vm?: string | undefined;
      hypervisor?: string | undefined;
      repository?: string | undefined;
      all: boolean;
    }): Promise<VerificationSubject> {
      const { all, ...query } = input;
      const { job, context, repository } = await findPoint(db, query);
      const pointId = all ? null : job.id;
      return { contextId: context.id, vm: context.vmName, repository: repository.name, host: repository.host, pointId };
    },

    /** The files to look at, once nobody changes them any more. */
    async planVerification(input: { contextId: string; pointId: string | null }): Promise<VerificationPlan> {
      const points = await listPoints(db, input.contextId);
      const wanted = input.pointId === null ? points : points.filter(({ id }) => id === input.pointId);
      if (wanted.length === 0) {
        throw new BackupError(
          'PointNotFound',
          `Expected restore point ${input.pointId ?? `of context ${input.contextId}`}, found that it has been deleted meanwhile; see 'backupvm point list'`,
        );
      }
      const disksOf = await listDisksOfJobs(
        db,
        points.map(({ id }) => id),
      );
      const disks = points.flatMap(({ id }) => disksOf.get(id) ?? []);
      return {
        points: wanted.map(({ id, pointTime }) => ({ pointId: id, pointTime: pointTime.toISOString() })),
        chains: chainsOf(disks, wanted),
      };
    },
  };
}

/** `disks` from the oldest point to the newest: a parent comes before its children. */
function chainsOf(disks: readonly BackupDisk[], wanted: readonly Job[]): VerificationChain[] {
  const byId = new Map(disks.map((disk) => [disk.id, disk]));
  const isWanted = new Set(wanted.map(({ id }) => id));
  const needed = new Set<string>();
  for (const disk of disks.filter(({ jobId }) => isWanted.has(jobId))) {
    for (let next: BackupDisk | undefined = disk; next; next = next.parentId ? byId.get(next.parentId) : undefined) {
      needed.add(next.id);
    }
  }
  const chainOf = new Map<string, VerificationChain>();
  for (const disk of disks) {
    if (!needed.has(disk.id)) continue;
    const { id, parentId, target, damage, jobId, fileBytes } = disk;
    const chain = (parentId === null ? undefined : chainOf.get(parentId)) ?? {
      ...{ key: id, target, diskIds: [], contentIds: [], fileBytes: 0 },
    };
    chain.diskIds.push(id);
    chain.fileBytes += fileBytes ?? 0;
    if (isWanted.has(jobId) || damage !== null) chain.contentIds.push(id);
    chainOf.set(id, chain);
  }
  return [...new Set(chainOf.values())];
}

export type VerifyPlanActivities = ReturnType<typeof createVerifyPlanActivities>;
