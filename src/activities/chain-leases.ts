import { acquireChainLease, type ChainHolder, type NewChainLease } from '../db/chain-leases.js';
import type { Database } from '../db/database.js';
import type { Namespace } from '../domain/namespace.js';

/** Leases on restore points: steps that need the database only. */
export function createChainLeaseActivities({ db, namespace }: { db: Database; namespace: Namespace }) {
  return {
    /** Leases the restore points of a context. @returns those that have to end first; none when the lease was given */
    async acquireChainLease(input: NewChainLease): Promise<{ holders: ChainHolder[] }> {
      return { holders: await acquireChainLease(db, input, namespace) };
    },
  };
}

export type ChainLeaseActivities = ReturnType<typeof createChainLeaseActivities>;
