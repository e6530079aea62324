import { contextFacts, findOrCreateContext, listHeads, type Head } from '../db/contexts.js';
import type { Database } from '../db/database.js';
import { recordCopied } from '../db/disks.js';
import { leasePort } from '../db/exports.js';
import { chooseHypervisor } from '../db/hypervisors.js';
import { closeJob, insertJob, type InsertedJob } from '../db/jobs.js';
import { chooseRepository } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { exportName } from '../domain/names.js';
import type { Namespace } from '../domain/namespace.js';
import type { ContextFacts } from '../domain/plan.js';

/** Where a backup reads from and writes to. */
export interface Targets {
  hypervisorId: string;
  repositoryId: string;
  repositoryName: string;
  /** The host of both, and so of every process of the backup. */
  host: string;
  /** Whether the server knows our search attributes: without them backups run all the same. */
  hasSearchAttributes: boolean;
}

export interface JobDependencies {
  db: Database;
  /** The one whose runs this worker takes. */
  namespace: Namespace;
  hasSearchAttributes: () => Promise<boolean>;
}

/** The steps that need the database only. Each may run twice. */
export function createJobActivities({ db, namespace, hasSearchAttributes }: JobDependencies) {
  return {
    /** Finds the registered hypervisor and repository that the input means. */
    async lookUpTargets(input: { hypervisor?: string; repository?: string }): Promise<Targets> {
      const hypervisor = await chooseHypervisor(db, input.hypervisor);
      const repository = await chooseRepository(db, input.repository);
      if (hypervisor.host !== repository.host) {
        throw new BackupError(
          'WrongHost',
          `Hypervisor '${hypervisor.name}' is read on host '${hypervisor.host}', repository '${repository.name}' lies on '${repository.host}'; copies between hosts are not supported, choose a repository on '${hypervisor.host}'`,
        );
      }
      return {
        hypervisorId: hypervisor.id,
        repositoryId: repository.id,
        repositoryName: repository.name,
        host: repository.host,
        hasSearchAttributes: await hasSearchAttributes(),
      };
    },

    /** Finds the registered hypervisor that the input means, and its host. */
    async lookUpHypervisor(input: {
      hypervisor?: string | undefined;
    }): Promise<{ hypervisorId: string; host: string }> {
      const { id, host } = await chooseHypervisor(db, input.hypervisor);
      return { hypervisorId: id, host };
    },

    /** Finds or makes the context of this VM in this repository, and what the next incrementals start from. */
    async lookUpContext(input: {
      hypervisorId: string;
      repositoryId: string;
      vmId: string;
      vmName: string;
    }): Promise<{ contextId: string; facts: ContextFacts; heads: Head[] }> {
      const context = await findOrCreateContext(db, input);
      return { contextId: context.id, facts: await contextFacts(db, context), heads: await listHeads(db, context.id) };
    },

    /** Inserts the parent row, to which every later row refers. One running job per context. */
    async insertJob(input: {
      jobId: string;
      contextId: string;
      workflowId: string;
      runId: string;
      /** The backup disks that the plan builds upon. */
      parentIds: string[];
    }): Promise<InsertedJob> {
      const { jobId, parentIds, ...job } = input;
      return insertJob(db, { id: jobId, ...job, namespace }, parentIds);
    },

    /** Leases a port for one disk, before anything listens on it. @returns null when all are leased */
    async allocatePort(input: {
      jobId: string;
      diskId: string;
      diskKey: string;
      host: string;
      ports: { first: number; last: number };
      avoidPorts: number[];
    }): Promise<number | null> {
      return leasePort(db, {
        host: input.host,
        firstPort: input.ports.first,
        lastPort: input.ports.last,
        avoidPorts: input.avoidPorts,
        jobId: input.jobId,
        diskId: input.diskId,
        exportName: exportName(input.jobId, input.diskKey),
      });
    },

    /** Records that a disk's copy is whole. Its change id stands in the same row, and counts from the seal on. */
    async recordChangeId(input: { diskId: string; changedBytes: number; writtenBytes: number }): Promise<void> {
      const { diskId, ...counts } = input;
      await recordCopied(db, diskId, counts);
    },

    /** Closes a job that made no restore point, after its clean-up. */
    async closeJob(input: { jobId: string; status: 'failed' | 'cancelled'; error: string }): Promise<void> {
      await closeJob(db, input.jobId, input.status, input.error);
    },
  };
}

export type JobActivities = ReturnType<typeof createJobActivities>;
