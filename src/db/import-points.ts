import { and, desc, eq, inArray, notInArray, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { exclusiveHolder, lockContext } from './chain-leases.js';
import { merges } from './chain-schema.js';
import type { Context } from './contexts.js';
import { violatesUnique, type Database, type Queryable } from './database.js';
import { listDisks, type BackupDisk } from './disks.js';
import { findJob, type Job } from './jobs.js';
import { backupDisks, backupJobs, nbdExports, vmBackupContexts } from './schema.js';

type DiskFacts =
  | 'id'
  | 'parentId'
  | 'diskKey'
  | 'target'
  | 'identity'
  | 'type'
  | 'reason'
  | 'sizeBytes'
  | 'wasEncrypted'
  | 'changeId'
  | 'path';
type FileFacts = Record<'checksum' | 'hashesChecksum', string> & { fileBytes: number };

/** A restore point as the repository itself tells of it. */
export interface ImportedPoint extends Pick<Job, 'id' | 'pointTime' | 'consistency' | 'vmConfig'> {
  disks: (Pick<BackupDisk, DiskFacts> & FileFacts)[];
}

export type ImportedContext = Omit<Context, 'createdAt'>;

/** What an import did, by the ids of the points. */
export interface ImportOutcome {
  /** Recorded now. */
  imported: string[];
  /** Recorded before, and otherwise than their manifests say: merged since. */
  updated: string[];
}

/**
 * Records restore points that are not recorded, oldest first, with their ids; also those whose job is recorded as one that goes on or
 * came to nothing: a manifest under its final name is written after the seal. Heads move to the newest. All or nothing; safe to repeat.
 * @param isAhead whether the database is older than the repository: then what a manifest says replaces what is recorded, and jobs and
 * deletions that are recorded as open keep nobody from it, since they wait for this
 * @throws BackupError AlreadyExists when the VM, or the folder, has another context; InUse when somebody works on it
 */
export async function importPoints(
  db: Database,
  context: ImportedContext,
  points: readonly ImportedPoint[],
  { isAhead }: { isAhead: boolean },
): Promise<ImportOutcome> {
  return db.transaction(async (tx) => {
    await requireContext(tx, context);
    await lockContext(tx, context.id);
    if (!isAhead) await requireNobody(tx, context, points);
    const outcome: ImportOutcome = { imported: [], updated: [] };
    for (const point of points) {
      const job = await findJob(tx, point.id);
      if (!job) await insertPoint(tx, context.id, point);
      else if (job.status !== 'complete' && job.status !== 'deleting') await adoptPoint(tx, context.id, point);
      else {
        if (isAhead && job.status === 'complete' && (await updatePoint(tx, point))) outcome.updated.push(point.id);
        continue;
      }
      outcome.imported.push(point.id);
    }
    if (outcome.imported.length > 0) await moveHeads(tx, context.id);
    return outcome;
  });
}

/**
 * Closes the jobs of a repository that an older database takes for open, once its restore points are imported: their runs ended after
 * that state. What they may have left is still to be cleaned up. Safe to repeat.
 */
export async function closeLostJobs(db: Queryable, repositoryId: string): Promise<void> {
  const contexts = db
    .select({ id: vmBackupContexts.id })
    .from(vmBackupContexts)
    .where(eq(vmBackupContexts.repositoryId, repositoryId));
  const error = 'the database was older than the repository, which has no restore point of this job';
  await db
    .update(backupJobs)
    .set({ status: 'failed', error, finishedAt: sql`now()` })
    .where(and(inArray(backupJobs.contextId, contexts), inArray(backupJobs.status, ['running', 'aborting'])));
}

async function requireContext(tx: Queryable, context: ImportedContext): Promise<void> {
  const { id, repositoryId, vmId, vmName, directory } = context;
  const [found] = await tx.select().from(vmBackupContexts).where(eq(vmBackupContexts.id, id));
  if (!found) {
    await insertContext(tx, context);
    return;
  }
  if (found.repositoryId === repositoryId && found.vmId === vmId && found.directory === directory) return;
  throw new BackupError(
    'AlreadyExists',
    `Expected context ${id} to be VM '${vmName}' (${vmId}) in folder ${directory}, found VM '${found.vmName}' (${found.vmId}) in folder ${found.directory} recorded`,
  );
}

async function insertContext(tx: Queryable, context: ImportedContext): Promise<void> {
  try {
    await tx.insert(vmBackupContexts).values(context);
  } catch (error) {
    const isTaken = ['vm_backup_contexts_vm_repository', 'vm_backup_contexts_directory'].some((constraint) =>
      violatesUnique(error, constraint),
    );
    if (!isTaken) throw error;
    throw new BackupError(
      'AlreadyExists',
      `Expected no backups of VM '${context.vmName}' (${context.vmId}) in this repository to be recorded under another context than ${context.id}, found some: it was backed up again before the import; delete those by 'backupvm delete NAME --all', or keep these as they are`,
    );
  }
}

async function requireNobody(
  tx: Queryable,
  { id, vmName }: ImportedContext,
  points: readonly ImportedPoint[],
): Promise<void> {
  const holder = await exclusiveHolder(tx, id);
  const [running] = await tx
    .select({ workflowId: backupJobs.workflowId })
    .from(backupJobs)
    .where(
      and(
        eq(backupJobs.contextId, id),
        inArray(backupJobs.status, ['running', 'aborting']),
        notInArray(
          backupJobs.id,
          points.map((point) => point.id),
        ),
      ),
    );
  const workflowId = holder?.workflowId ?? running?.workflowId;
  if (workflowId === undefined) return;
  throw new BackupError(
    'InUse',
    `Expected nobody to work on the backups of VM '${vmName}', found workflow '${workflowId}'; wait for it`,
  );
}

async function insertPoint(tx: Queryable, contextId: string, { disks, ...job }: ImportedPoint): Promise<void> {
  const { id: jobId, pointTime } = job;
  await tx.insert(backupJobs).values({
    ...{ ...job, contextId, workflowId: 'repository import', runId: jobId },
    ...{ status: 'complete', cleanUp: 'done', startedAt: pointTime, finishedAt: pointTime },
  });
  await tx.insert(backupDisks).values(
    // Of no file's time: whoever builds upon it looks at its checksum first.
    disks.map((disk) => ({ ...disk, jobId, contextId, status: 'complete' as const, fileModifiedMs: 0 })),
  );
}

/**
 * Makes a job a restore point that was sealed without its row knowing it. What its run may have left elsewhere is still to be cleaned up,
 * where the row says so.
 * @throws BackupError InUse when a disk that the manifest does not know still holds a port
 */
async function adoptPoint(tx: Queryable, contextId: string, { disks, ...point }: ImportedPoint): Promise<void> {
  const { id: jobId, pointTime, consistency, vmConfig } = point;
  const ids = disks.map(({ id }) => id);
  const [leased] = await tx
    .select({ port: nbdExports.port })
    .from(nbdExports)
    .where(and(eq(nbdExports.jobId, jobId), notInArray(nbdExports.diskId, ids)));
  if (leased) {
    throw new BackupError(
      'InUse',
      `cannot import restore point ${jobId}: its job still holds port ${leased.port}; run 'backupvm reconcile' first`,
    );
  }
  await tx.delete(backupDisks).where(and(eq(backupDisks.jobId, jobId), notInArray(backupDisks.id, ids)));
  for (const disk of disks) {
    const none = { attemptPath: null, sourceUri: null, dirtyContext: null, damage: null };
    const values = { ...disk, jobId, contextId, status: 'complete' as const, fileModifiedMs: 0, ...none };
    await tx.insert(backupDisks).values(values).onConflictDoUpdate({ target: backupDisks.id, set: values });
  }
  await tx
    .update(backupJobs)
    .set({
      ...{ status: 'complete', error: null, pointTime, consistency, vmConfig },
      finishedAt: sql`coalesce(${backupJobs.finishedAt}, now())`,
    })
    .where(eq(backupJobs.id, jobId));
}

/** Brings the disks of a point to what its manifest says, and ends merges into them that are done. @returns whether any was otherwise */
async function updatePoint(tx: Queryable, { id: jobId, disks }: ImportedPoint): Promise<boolean> {
  let isChanged = false;
  const recorded = await listDisks(tx, jobId);
  for (const { id, type, reason, parentId, checksum, hashesChecksum, fileBytes } of disks) {
    const found = { type, reason, parentId, checksum, hashesChecksum, fileBytes };
    const row = recorded.find((disk) => disk.id === id);
    if (!row || Object.entries(found).every(([name, value]) => row[name as keyof typeof found] === value)) continue;
    isChanged = true;
    await tx
      .update(backupDisks)
      .set({ ...found, fileModifiedMs: 0, damage: null })
      .where(eq(backupDisks.id, id));
    await tx.delete(merges).where(eq(merges.successorId, id));
  }
  return isChanged;
}

async function moveHeads(tx: Pick<Database, 'selectDistinctOn' | 'update'>, contextId: string): Promise<void> {
  const newest = await tx
    .selectDistinctOn([backupDisks.diskKey], { id: backupDisks.id })
    .from(backupDisks)
    .innerJoin(backupJobs, eq(backupJobs.id, backupDisks.jobId))
    .where(and(eq(backupDisks.contextId, contextId), eq(backupJobs.status, 'complete')))
    .orderBy(backupDisks.diskKey, desc(backupJobs.pointTime));
  const heads = newest.map(({ id }) => id);
  await tx.update(backupDisks).set({ isHead: false }).where(eq(backupDisks.contextId, contextId));
  await tx.update(backupDisks).set({ isHead: true }).where(inArray(backupDisks.id, heads));
}
