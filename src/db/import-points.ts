import { and, desc, eq, inArray } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { exclusiveHolder, lockContext } from './chain-leases.js';
import type { Context } from './contexts.js';
import { violatesUnique, type Database, type Queryable } from './database.js';
import type { BackupDisk } from './disks.js';
import { findJob, type Job } from './jobs.js';
import { backupDisks, backupJobs, vmBackupContexts } from './schema.js';

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

/**
 * Records restore points that are not recorded, oldest first, with their ids. What is recorded already stays as it is; heads move
 * to the newest. All or nothing; safe to repeat.
 * @returns the ids of those that were recorded now
 * @throws BackupError AlreadyExists when the VM, or the folder, has another context; InUse when somebody works on it
 */
export async function importPoints(
  db: Database,
  context: ImportedContext,
  points: readonly ImportedPoint[],
): Promise<string[]> {
  return db.transaction(async (tx) => {
    await requireContext(tx, context);
    await lockContext(tx, context.id);
    await requireNobody(tx, context);
    const imported: string[] = [];
    for (const point of points) {
      if (await findJob(tx, point.id)) continue;
      await insertPoint(tx, context.id, point);
      imported.push(point.id);
    }
    if (imported.length > 0) await moveHeads(tx, context.id);
    return imported;
  });
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

async function requireNobody(tx: Queryable, { id, vmName }: ImportedContext): Promise<void> {
  const holder = await exclusiveHolder(tx, id);
  const [running] = await tx
    .select({ workflowId: backupJobs.workflowId })
    .from(backupJobs)
    .where(and(eq(backupJobs.contextId, id), inArray(backupJobs.status, ['running', 'aborting'])));
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
