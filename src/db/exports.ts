import { and, eq, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import type { Database, Queryable } from './database.js';
import { backupDisks, backupJobs, nbdExports } from './schema.js';

export type NbdExport = typeof nbdExports.$inferSelect;

export interface LeaseRequest {
  host: string;
  firstPort: number;
  lastPort: number;
  /** Ports that were found taken in the kernel, by somebody whom this table does not know. */
  avoidPorts: readonly number[];
  jobId: string;
  diskId: string;
  exportName: string;
}

/**
 * Leases the lowest free port of a host for one disk. Safe to repeat: a disk has one lease, and gets it again.
 * A lease on a port to avoid is exchanged: nothing of ours runs there, that is why it is to be avoided.
 * @returns the port, or null when all are leased
 * @throws BackupError JobNotFound when the job has ended: a late attempt must not lease what nobody gives back
 */
export async function leasePort(db: Database, request: LeaseRequest): Promise<number | null> {
  return db.transaction(async (tx) => {
    // One at a time per host: so that two never choose the same port, and the lowest free one is the lowest free one.
    await tx.execute(sql`select pg_advisory_xact_lock(hashtextextended(${`nbd_exports:${request.host}`}, 0))`);
    const [job] = await tx.select().from(backupJobs).where(eq(backupJobs.id, request.jobId)).for('share');
    if (job?.status !== 'running') {
      throw new BackupError(
        'JobNotFound',
        `Expected job ${request.jobId} running, found that it has ended; no port was leased for it`,
      );
    }
    const [own] = await tx.select().from(nbdExports).where(eq(nbdExports.diskId, request.diskId));
    if (own && !request.avoidPorts.includes(own.port)) return own.port;
    if (own) await tx.delete(nbdExports).where(and(eq(nbdExports.host, own.host), eq(nbdExports.port, own.port)));
    const free = await tx.execute<{ port: number }>(sql`
      select candidate.port from generate_series(${request.firstPort}::int, ${request.lastPort}::int) as candidate(port)
      where not exists (select 1 from ${nbdExports} where ${nbdExports.host} = ${request.host} and ${nbdExports.port} = candidate.port)
        and candidate.port <> all(${sql.param(request.avoidPorts)}::int[])
      order by candidate.port limit 1`);
    const port = free.rows[0]?.port;
    if (port === undefined) return null;
    const { host, jobId, diskId, exportName } = request;
    await tx.insert(nbdExports).values({ host, port, jobId, diskId, exportName });
    return port;
  });
}

export async function findExport(db: Queryable, diskId: string): Promise<NbdExport | undefined> {
  const [row] = await db.select().from(nbdExports).where(eq(nbdExports.diskId, diskId));
  return row;
}

export async function listExports(db: Queryable, jobId: string): Promise<NbdExport[]> {
  return db.select().from(nbdExports).where(eq(nbdExports.jobId, jobId)).orderBy(nbdExports.port);
}

/** One attempt at a disk's copy: by the file that it writes, since a later one has the same lease. */
export interface Attempt {
  diskId: string;
  attemptPath: string;
}

/** Says where the pid will be found. The row says so before the process starts. @returns whether the lease is still this attempt's */
export async function recordPidFile(db: Queryable, attempt: Attempt, pidFile: string): Promise<boolean> {
  const none = { pid: null, startTime: null, bootId: null, copyPid: null, copyStartTime: null, copyBootId: null };
  const { rowCount } = await db
    .update(nbdExports)
    .set({ pidFile, ...none })
    .where(isLeaseOf(attempt));
  return rowCount === 1;
}

/** Records the process behind a lease. @returns whether the lease is still this attempt's: if not, the process must not live on */
export async function recordProcess(
  db: Queryable,
  attempt: Attempt,
  process: { pid: number; startTime: string; bootId: string },
): Promise<boolean> {
  const { rowCount } = await db.update(nbdExports).set(process).where(isLeaseOf(attempt));
  return rowCount === 1;
}

/** Records the copy that writes to an export. @returns whether the lease is still this attempt's: if not, the copy must end */
export async function recordCopyProcess(
  db: Queryable,
  attempt: Attempt,
  { pid, startTime, bootId }: { pid: number; startTime: string; bootId: string },
): Promise<boolean> {
  const { rowCount } = await db
    .update(nbdExports)
    .set({ copyPid: pid, copyStartTime: startTime, copyBootId: bootId })
    .where(isLeaseOf(attempt));
  return rowCount === 1;
}

function isLeaseOf({ diskId, attemptPath }: Attempt) {
  const disk = sql`select 1 from ${backupDisks} where ${backupDisks.id} = ${diskId} and ${backupDisks.attemptPath} = ${attemptPath}`;
  return and(eq(nbdExports.diskId, diskId), sql`exists (${disk})`);
}

/** Gives a port back. Only for a lease whose process is known dead. Safe to repeat. */
export async function releasePort(db: Queryable, lease: Pick<NbdExport, 'host' | 'port' | 'diskId'>): Promise<void> {
  await db
    .delete(nbdExports)
    .where(and(eq(nbdExports.host, lease.host), eq(nbdExports.port, lease.port), eq(nbdExports.diskId, lease.diskId)));
}
