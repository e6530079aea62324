import { findChainLease, recordLeaseTrouble, releaseChainLease, type ChainLease } from '../db/chain-leases.js';
import { getContext } from '../db/contexts.js';
import type { Database } from '../db/database.js';
import { listTombstones, listUncleaned, lookUpPlan, tombstonePoints } from '../db/deletions.js';
import { getDisk, listChain, listDisks, type BackupDisk } from '../db/disks.js';
import { getJob } from '../db/jobs.js';
import { listMerged, listMerges } from '../db/merges.js';
import { listPoints } from '../db/points.js';
import { getRepository } from '../db/repositories.js';
import type { DeletionPlan, Descendants, PlannedMerge } from '../domain/deletion.js';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import { messageOf } from '../domain/message-of.js';
import { statfs } from '../repository/file-system.js';
import { probeRepository, requireRepository } from '../repository/marker.js';
import { describeDeletion, type DeletedPoint } from './deletion-plan.js';
import type { HostDependencies } from './dependencies.js';
import { finishTombstones } from './finish-tombstones.js';
import { heartbeating } from './heartbeat.js';
import type { MergeProgress, MergeWatch } from './merge.js';
import { requireHost } from './job-rows.js';
import { findTrouble } from './parent-files.js';
import { ownDiskFile, type PointFolder } from './point-files.js';
import { requireCurrent } from './repository-epoch.js';
import { findUnknownDescendant, repositoryAhead } from './sealed-files.js';

export function createDeletionActivities(dependencies: HostDependencies) {
  return {
    /** Asks the host before anything is leased: whether the repository is there and can be written. */
    async probeDeletion(input: { contextId: string }): Promise<void> {
      await heartbeating(async () => {
        const { repository } = await findFolder(dependencies, input.contextId);
        await probeRepository(repository.path, repository.id);
        await requireCurrent(dependencies.db, repository);
      });
    },

    /** `beginDeletion`, with heartbeats. */
    async beginDeletion(input: BeginDeletionInput): Promise<DeletedPoint[]> {
      return heartbeating((signal) => beginDeletion(dependencies, input, signal));
    },

    /** `finishDeletion`, with heartbeats. */
    async finishDeletion(input: { leaseId: string }): Promise<DeletionEnd> {
      let merging: MergeProgress | undefined;
      const onProgress = (progress: MergeProgress) => void (merging = progress);
      return heartbeating(
        (signal) => finishDeletion(dependencies, input.leaseId, signal, onProgress),
        () => merging,
      );
    },
  };
}

export interface BeginDeletionInput {
  leaseId: string;
  /** Null: all of them, and the context itself. */
  jobIds: string[] | null;
  descendants: Descendants;
}

/**
 * Looks at everything that could keep restore points from being deleted, and then gives them their tombstones, in one
 * transaction: from there on `finishDeletion` brings it to its end. Run again, it finds what it began.
 * @throws BackupError Protected, HasDescendants, PointNotFound, PointDamaged, RepositoryFull, RepositoryAhead, InUse: nothing was changed
 */
export async function beginDeletion(
  dependencies: HostDependencies,
  { leaseId, jobIds: chosen, descendants }: BeginDeletionInput,
  signal: AbortSignal,
): Promise<DeletedPoint[]> {
  const { db } = dependencies;
  const lease = await findChainLease(db, leaseId);
  if (!lease) throw new TypeError(`Expected lease ${leaseId} on the restore points, found none`);
  const begun = await findBegun(db, lease);
  if (begun) return describeDeletion(db, begun);
  const folder = await findFolder(dependencies, lease.contextId);
  await requireRepository(folder.repository.path, folder.repository.id);
  await requireCurrent(db, folder.repository);
  const jobIds = await choosePoints(db, lease.contextId, chosen);
  const plan = await lookUpPlan(db, { ...lease, jobIds, descendants });
  await requireOwnFiles(db, folder, plan);
  await requireMergeable(db, folder, plan.merges, signal);
  const points = await describeDeletion(db, plan);
  signal.throwIfAborted(); // the last moment at which nothing has happened
  await tombstonePoints(db, { ...lease, deletesContext: chosen === null }, plan);
  return points;
}

/** What a deletion came to that is no failure. */
export interface DeletionEnd {
  warnings: string[];
}

/**
 * Brings a deletion to its end from wherever it was left, and gives its lease back: where nothing has a tombstone, that is all.
 * Merging may take hours. Safe to repeat, and after a crash in the middle.
 * @throws BackupError CleanUpFailed: the lease stays, so that nobody builds upon what is half done; PointDamaged when a merge could
 * not be done: then the lease is given back, and what it would have deleted is there again, marked
 */
export async function finishDeletion(
  dependencies: HostDependencies,
  leaseId: string,
  signal: AbortSignal,
  onProgress: MergeWatch['onProgress'] = () => undefined,
): Promise<DeletionEnd> {
  const { db } = dependencies;
  const lease = await findChainLease(db, leaseId);
  if (!lease) return { warnings: [] };
  const folder = await findFolder(dependencies, lease.contextId);
  let outcome: { warnings: string[]; refusals: string[] };
  try {
    outcome = await finishTombstones(dependencies, lease, folder, { signal, onProgress });
    await releaseChainLease(db, leaseId);
  } catch (error) {
    signal.throwIfAborted();
    await recordLeaseTrouble(db, leaseId, messageOf(error));
    // Never a permanent error, whatever it was: what is half deleted is not given up.
    throw new BackupError('CleanUpFailed', `The ${lease.purpose} ${leaseId} is not done yet: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const { warnings, refusals } = outcome;
  if (refusals.length > 0) throw new BackupError('PointDamaged', refusals.join('; '));
  return { warnings };
}

async function findFolder({ db, host }: HostDependencies, contextId: string): Promise<PointFolder> {
  const context = await getContext(db, contextId);
  const repository = await getRepository(db, context.repositoryId);
  requireHost(host, repository);
  return { context, repository };
}

/** What an earlier attempt has begun, from the rows. */
async function findBegun(db: Database, lease: ChainLease): Promise<DeletionPlan | undefined> {
  const tombstones = await listTombstones(db, lease.contextId);
  if (tombstones.length === 0 && !lease.deletesContext) return undefined;
  const merges: PlannedMerge[] = [];
  for (const merge of await listMerges(db, lease.id)) {
    const disks = await listMerged(db, merge);
    merges.push({ memberIds: disks.slice(0, -1).map(({ id }) => id), successorId: merge.successorId });
  }
  return { jobIds: tombstones.map(({ id }) => id), merges };
}

/** @throws BackupError PointNotFound when one has been deleted meanwhile; InUse when a job still has something to clean up */
async function choosePoints(db: Database, contextId: string, jobIds: string[] | null): Promise<string[]> {
  const points = (await listPoints(db, contextId)).map(({ id }) => id);
  if (jobIds !== null) {
    const missing = jobIds.filter((id) => !points.includes(id));
    if (missing.length === 0) return jobIds;
    throw new BackupError(
      'PointNotFound',
      `Expected the restore points that are to be deleted, found that these are gone: ${missing.join(', ')}`,
    );
  }
  const uncleaned = await listUncleaned(db, contextId);
  if (uncleaned.length === 0) return points;
  throw new BackupError(
    'InUse',
    `Expected nothing left to clean up, found jobs with ports or unfinished files: ${uncleaned.join(', ')}; run 'backupvm reconcile' first`,
  );
}

/** A tampered row is refused before anything is changed, and so is a point that a file builds upon which no row knows. */
async function requireOwnFiles(db: Database, folder: PointFolder, { jobIds, merges }: DeletionPlan): Promise<void> {
  const going: BackupDisk[] = [];
  for (const id of jobIds) {
    const { pointTime } = await getJob(db, id);
    for (const disk of await listDisks(db, id)) {
      await ownDiskFile(folder, disk, pointTime);
      going.push(disk);
    }
  }
  const successors = await Promise.all(merges.map(({ successorId }) => getDisk(db, successorId)));
  const claim = await findUnknownDescendant(folder.repository.path, going, successors);
  if (claim !== undefined) throw repositoryAhead(folder.repository, claim);
}

/** @throws BackupError PointDamaged when a file that a merge reads is not as it was sealed; RepositoryFull when it will not fit */
async function requireMergeable(
  db: Database,
  folder: PointFolder,
  merges: readonly PlannedMerge[],
  signal: AbortSignal,
): Promise<void> {
  const { path: root, name } = folder.repository;
  let neededBytes = 0;
  for (const { memberIds, successorId } of merges) {
    const chain = await listChain(db, successorId);
    const trouble = await findTrouble(root, chain, signal);
    const damaged = chain.find(({ damage }) => damage !== null);
    if (trouble || damaged) {
      const what = trouble ? `${trouble.path} is not as it was sealed` : `${damaged?.path}: ${damaged?.damage}`;
      throw new BackupError(
        'PointDamaged',
        `Expected good files to merge into restore point ${chain[0]?.jobId}, found damage: ${what}; keep it, or delete it together with what needs it (descendants 'delete')`,
      );
    }
    const successor = await getDisk(db, successorId);
    const others = chain.filter(({ id }) => memberIds.slice(1).includes(id));
    const bytes = [successor, ...others].reduce((sum, { fileBytes }) => sum + (fileBytes ?? 0), 0);
    neededBytes = Math.max(neededBytes, bytes); // one after the other, and each frees what it took
  }
  if (neededBytes === 0) return;
  const { bavail, bsize } = await statfs(root);
  if (neededBytes <= bavail * bsize) return;
  throw new BackupError(
    'RepositoryFull',
    `Expected up to ${formatBytes(neededBytes)} free in repository '${name}' to merge, found ${formatBytes(bavail * bsize)}; free some`,
  );
}

export type DeletionActivities = ReturnType<typeof createDeletionActivities>;
