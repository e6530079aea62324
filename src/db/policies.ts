import { and, eq, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { keepFields, type RetentionPolicy } from '../domain/retention.js';
import { retentionPolicies } from './chain-schema.js';
import type { Queryable } from './database.js';
import { hypervisors, repositories, vmBackupContexts } from './schema.js';

type PolicyRow = typeof retentionPolicies.$inferSelect;

/** Stores the policy of one VM in one repository, in place of an earlier one. Safe to repeat. */
export async function setPolicy(db: Queryable, contextId: string, policy: RetentionPolicy): Promise<void> {
  const counts = Object.fromEntries(keepFields.map((field) => [field, policy[field] ?? null]));
  const values = { ...counts, timeZone: policy.timeZone, updatedAt: sql`now()` };
  await db
    .insert(retentionPolicies)
    .values({ contextId, ...values })
    .onConflictDoUpdate({ target: retentionPolicies.contextId, set: values });
}

/** @returns whether there was one */
export async function removePolicy(db: Queryable, contextId: string): Promise<boolean> {
  const removed = await db
    .delete(retentionPolicies)
    .where(eq(retentionPolicies.contextId, contextId))
    .returning({ contextId: retentionPolicies.contextId });
  return removed.length > 0;
}

/** One VM in one repository, and how many of its restore points are to stay; null where nobody has said so. */
export interface PolicyListing {
  contextId: string;
  vm: string;
  hypervisor: string;
  repository: string;
  policy: RetentionPolicy | null;
}

export interface PolicyFilter {
  vm?: string | undefined;
  /** The names, as registered. */
  repository?: string | undefined;
  hypervisor?: string | undefined;
}

/** The VMs that have been backed up, by repository, each with its policy. */
export async function listPolicies(db: Queryable, filter: PolicyFilter): Promise<PolicyListing[]> {
  const rows = await db
    .select({
      context: vmBackupContexts,
      hypervisor: hypervisors.name,
      repository: repositories.name,
      policy: retentionPolicies,
    })
    .from(vmBackupContexts)
    .innerJoin(hypervisors, eq(hypervisors.id, vmBackupContexts.hypervisorId))
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId))
    .leftJoin(retentionPolicies, eq(retentionPolicies.contextId, vmBackupContexts.id))
    .where(
      and(
        filter.vm === undefined ? undefined : eq(vmBackupContexts.vmName, filter.vm),
        filter.repository === undefined ? undefined : eq(repositories.name, filter.repository),
        filter.hypervisor === undefined ? undefined : eq(hypervisors.name, filter.hypervisor),
      ),
    )
    .orderBy(repositories.name, vmBackupContexts.vmName, vmBackupContexts.createdAt);
  return rows.map(({ context, hypervisor, repository, policy }) => ({
    ...{ contextId: context.id, vm: context.vmName, hypervisor, repository },
    policy: policy && readPolicy(policy),
  }));
}

/** @throws BackupError ContextNotFound; InvalidInput when two hypervisors have a VM of that name */
export function requireOneVM(vm: string, repository: string, found: readonly { hypervisor: string }[]): void {
  const names = [...new Set(found.map(({ hypervisor }) => `'${hypervisor}'`))];
  if (names.length === 1) return;
  if (names.length === 0) {
    throw new BackupError(
      'ContextNotFound',
      `Expected backups of VM '${vm}' in repository '${repository}', found none; see 'backupvm point list'`,
    );
  }
  throw new BackupError(
    'InvalidInput',
    `Expected one VM '${vm}', found one on each of the hypervisors ${names.join(', ')}; say which in the field 'hypervisor'`,
  );
}

function readPolicy(row: PolicyRow): RetentionPolicy {
  const counts = keepFields.flatMap((field) => (row[field] === null ? [] : [[field, row[field]] as const]));
  return { ...Object.fromEntries(counts), timeZone: row.timeZone };
}
