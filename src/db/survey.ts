import { and, eq, inArray, isNotNull, or, sql } from 'drizzle-orm';
import { merges } from './chain-schema.js';
import type { Queryable } from './database.js';
import type { NbdExport } from './exports.js';
import type { RepositoryRow } from './repositories.js';
import { backupDisks, backupJobs, nbdExports, repositories, vmBackupContexts } from './schema.js';

/** All leases of a host. */
export async function listLeases(db: Queryable, host: string): Promise<NbdExport[]> {
  return db.select().from(nbdExports).where(eq(nbdExports.host, host));
}

/** The repositories of a host, by name. */
export async function listRepositoriesOf(db: Queryable, host: string): Promise<RepositoryRow[]> {
  return db.select().from(repositories).where(eq(repositories.host, host)).orderBy(repositories.name);
}

/** A disk whose row accounts for files in a repository. */
export interface RecordedDisk {
  jobId: string;
  vm: string;
  /** The VM's folder. */
  directory: string;
  pointTime: Date;
  path: string;
  attemptPath: string | null;
  /** The virtual size. */
  sizeBytes: number;
  /** The size at the seal; null where it is not sealed, or is being deleted or merged into. */
  fileBytes: number | null;
}

/**
 * The disks of restore points, also of those that are being deleted, of jobs that go on, and of those whose clean-up still has a
 * file to remove; by path.
 */
export async function listRecordedDisks(db: Queryable, repositoryId: string): Promise<RecordedDisk[]> {
  const isAtRest = sql`${backupJobs.status} = 'complete' and not exists (select 1 from ${merges} where ${merges.successorId} = ${backupDisks.id})`;
  return db
    .select({
      jobId: backupJobs.id,
      vm: vmBackupContexts.vmName,
      directory: vmBackupContexts.directory,
      pointTime: backupJobs.pointTime,
      path: backupDisks.path,
      attemptPath: backupDisks.attemptPath,
      sizeBytes: backupDisks.sizeBytes,
      fileBytes: sql<number | null>`case when ${isAtRest} then ${backupDisks.fileBytes} end`.mapWith(
        backupDisks.fileBytes,
      ),
    })
    .from(backupDisks)
    .innerJoin(backupJobs, eq(backupJobs.id, backupDisks.jobId))
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.id, backupJobs.contextId))
    .where(
      and(
        eq(vmBackupContexts.repositoryId, repositoryId),
        or(
          inArray(backupJobs.status, ['running', 'aborting', 'complete', 'deleting']),
          isNotNull(backupDisks.attemptPath),
        ),
      ),
    )
    .orderBy(backupDisks.path);
}
