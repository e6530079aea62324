import { and, eq, inArray, isNotNull } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { lockContext } from './chain-leases.js';
import type { Database, Queryable } from './database.js';
import { backupDisks, backupJobs, vmBackupContexts } from './schema.js';

export interface VMOfHypervisor {
  hypervisorId: string;
  vmId: string;
}

/**
 * Records that the hypervisor holds no change id of a VM any longer, in whichever repository: from here on no backup starts from one.
 * The row before the act. Safe to repeat.
 * @throws BackupError BackupAlreadyRunning
 */
export async function forgetAllChangeIds(db: Database, vm: VMOfHypervisor): Promise<void> {
  await db.transaction(async (tx) => {
    const contextIds = await listContextIds(tx, vm);
    for (const id of contextIds) await lockContext(tx, id); // no backup begins meanwhile
    if (contextIds.length === 0) return;
    const [running] = await tx
      .select({ id: backupJobs.id, workflowId: backupJobs.workflowId })
      .from(backupJobs)
      .where(and(inArray(backupJobs.contextId, contextIds), inArray(backupJobs.status, ['running', 'aborting'])));
    if (running) {
      throw new BackupError(
        'BackupAlreadyRunning',
        `cannot forget the change ids of VM ${vm.vmId}: its backup ${running.id} runs as workflow '${running.workflowId}'; wait for it, or cancel it`,
      );
    }
    await tx
      .update(backupDisks)
      .set({ changeId: null, isForgotten: true })
      .where(and(inArray(backupDisks.contextId, contextIds), isNotNull(backupDisks.changeId)));
  });
}

/** What backups that began since then need: the snapshots that are open, and the change ids that were recorded. */
export async function changeIdsInUse(
  db: Queryable,
  vm: VMOfHypervisor,
): Promise<{ snapshotIds: string[]; changeIds: string[] }> {
  const contextIds = await listContextIds(db, vm);
  if (contextIds.length === 0) return { snapshotIds: [], changeIds: [] };
  const jobs = await db
    .select({ snapshotIds: backupJobs.snapshotIds })
    .from(backupJobs)
    .where(and(inArray(backupJobs.contextId, contextIds), inArray(backupJobs.status, ['running', 'aborting'])));
  const disks = await db
    .select({ changeId: backupDisks.changeId })
    .from(backupDisks)
    .where(and(inArray(backupDisks.contextId, contextIds), isNotNull(backupDisks.changeId)));
  return {
    snapshotIds: jobs.flatMap(({ snapshotIds }) => snapshotIds),
    changeIds: disks.flatMap(({ changeId }) => changeId ?? []),
  };
}

/** Always in the same order, so that two that lock them all do not wait for each other. */
async function listContextIds(db: Queryable, { hypervisorId, vmId }: VMOfHypervisor): Promise<string[]> {
  const rows = await db
    .select({ id: vmBackupContexts.id })
    .from(vmBackupContexts)
    .where(and(eq(vmBackupContexts.hypervisorId, hypervisorId), eq(vmBackupContexts.vmId, vmId)))
    .orderBy(vmBackupContexts.id);
  return rows.map(({ id }) => id);
}
