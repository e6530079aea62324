import { databaseTime, type Database } from '../db/database.js';
import { listPolicies, requireOneVM } from '../db/policies.js';
import { chooseRepository } from '../db/repositories.js';
import { listRetentionPoints } from '../db/retention-points.js';
import type { PrunedPoint } from '../domain/prune-result.js';
import { decideRetention, type RetentionPolicy } from '../domain/retention.js';

/** The VMs whose restore points are to be pruned, in one repository. */
export interface PruneTargets {
  repository: string;
  host: string;
  vms: { contextId: string; vm: string; policy: RetentionPolicy | null }[];
}

/** Retention: steps that need the database only. */
export function createPruneActivities({ db }: { db: Database }) {
  return {
    /** Finds the VMs that the input means, each with its stored policy. */
    async lookUpPruneTargets(input: { vm?: string; hypervisor?: string; repository?: string }): Promise<PruneTargets> {
      const { name: repository, host } = await chooseRepository(db, input.repository);
      const found = await listPolicies(db, { ...input, repository });
      if (input.vm !== undefined) requireOneVM(input.vm, repository, found);
      return { repository, host, vms: found.map(({ contextId, vm, policy }) => ({ contextId, vm, policy })) };
    },

    /** Decides which restore points of a context stay. Here and not in the workflow: time zones change with the machine's data. */
    async decidePrune(input: { contextId: string; policy: RetentionPolicy }): Promise<PrunedPoint[]> {
      const points = await listRetentionPoints(db, input.contextId, await databaseTime(db));
      return decideRetention(points, input.policy).map(({ id, time, keep, rule, reason }) => ({
        ...{ id, time: time.toISOString(), decision: keep ? 'keep' : 'remove', rule, reason },
      }));
    },
  };
}

export type PruneActivities = ReturnType<typeof createPruneActivities>;
