import type { ChainLease } from '../db/chain-leases.js';
import { deleteContext, deleteTombstones, listNeedingPaths, listTombstones } from '../db/deletions.js';
import { forgetChangeIds, getDisk, listDisks, listDisksOfJobs, obsoleteChangeIds } from '../db/disks.js';
import { getHypervisor } from '../db/hypervisors.js';
import type { Database } from '../db/database.js';
import type { Job } from '../db/jobs.js';
import { listMerges, type Merge } from '../db/merges.js';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { requireRepository } from '../repository/marker.js';
import type { HostDependencies } from './dependencies.js';
import { finishMerge, type MergeWatch } from './merge.js';
import { removePointFiles, removePointManifest, type PointFolder } from './point-files.js';
import { requireCurrent } from './repository-epoch.js';
import { findUnknownDescendant, repositoryAhead } from './sealed-files.js';

/** A hypervisor that hangs must not keep files from going. */
const forgetTimeoutMs = 60_000;

/**
 * Merges, and removes files and then rows, of all that has a tombstone in the context of a lease. Safe to repeat.
 * @returns what could not be done and does not matter, and merges that were given up
 */
export async function finishTombstones(
  dependencies: HostDependencies,
  { id: leaseId, contextId, deletesContext }: ChainLease,
  folder: PointFolder,
  { signal, onProgress }: MergeWatch,
): Promise<{ warnings: string[]; refusals: string[] }> {
  const { db } = dependencies;
  const { repository } = folder;
  const tombstones = await listTombstones(db, contextId);
  if (tombstones.length === 0 && !deletesContext) return { warnings: [], refusals: [] };
  await requireRepository(repository.path, repository.id);
  await requireCurrent(db, repository);
  const merges = await listMerges(db, leaseId);
  await requireNoUnknownDescendant(db, folder, tombstones, merges);
  // Before the first byte of them changes: who finds the files without us must not take them for restore points.
  for (const job of tombstones) await removePointManifest(folder, job);

  const refusals: string[] = [];
  for (const merge of merges) {
    try {
      await finishMerge(dependencies, folder, merge, { signal, onProgress });
    } catch (error) {
      if (!(error instanceof BackupError) || error.code !== 'PointDamaged') throw error;
      refusals.push(error.message);
    }
  }

  const warnings = await dropChangeIds(dependencies, folder, signal);
  const going = await listTombstones(db, contextId); // without those that a refusal gave back
  const needing = await listNeedingPaths(
    db,
    going.map(({ id }) => id),
  );
  if (needing.length > 0) throw new TypeError(`Expected nobody to need what goes, found ${needing.join(', ')}`);
  await requireNoUnknownDescendant(db, folder, going, []);
  for (const job of going) {
    signal.throwIfAborted();
    await removePointFiles(folder, job, await listDisks(db, job.id));
  }
  await deleteTombstones(db, contextId);
  await requireCurrent(db, repository);
  if (deletesContext) await deleteContext(db, contextId);
  return { warnings, refusals };
}

/** @throws BackupError RepositoryAhead when a file that no row knows would lose what it builds upon */
async function requireNoUnknownDescendant(
  db: Database,
  { repository }: PointFolder,
  going: readonly Job[],
  merges: readonly Merge[],
): Promise<void> {
  const disks = await listDisksOfJobs(
    db,
    going.map(({ id }) => id),
  );
  const successors = await Promise.all(merges.map(({ successorId }) => getDisk(db, successorId)));
  const claim = await findUnknownDescendant(repository.path, [...disks.values()].flat(), successors);
  if (claim !== undefined) throw repositoryAhead(repository, claim);
}

/** As far as the hypervisor can be asked: the backups of a VM that is long gone must go, too. */
async function dropChangeIds(
  { db, host, createSource }: HostDependencies,
  { context }: PointFolder,
  signal: AbortSignal,
): Promise<string[]> {
  const changeIds = await obsoleteChangeIds(db, context.id);
  if (changeIds.length === 0) return [];
  const hypervisor = await getHypervisor(db, context.hypervisorId);
  try {
    if (hypervisor.host !== host) throw new Error(`it is read on host '${hypervisor.host}'`);
    const limited = AbortSignal.any([signal, AbortSignal.timeout(forgetTimeoutMs)]);
    await createSource(hypervisor).dropChangeIds(context.vmId, changeIds, limited);
    await forgetChangeIds(db, context.id, changeIds);
    return [];
  } catch (error) {
    signal.throwIfAborted();
    return [
      `Hypervisor '${hypervisor.name}' could not be told to forget ${changeIds.length} change id(s) of VM '${context.vmName}': ${messageOf(error)}`,
    ];
  }
}
