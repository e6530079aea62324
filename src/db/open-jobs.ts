import { and, eq, inArray, or, sql } from 'drizzle-orm';
import type { RunRow } from '../domain/orphaned-run.js';
import type { Queryable } from './database.js';
import { isGivenUp } from './installations.js';
import { backupJobs, nbdExports, repositories, vmBackupContexts } from './schema.js';

export interface OpenJob extends RunRow {
  id: string;
  vm: string;
  workflowId: string;
  runId: string;
  /** Ports that the job still holds. */
  ports: number[];
}

/**
 * The jobs of a host that are not closed, whose clean-up is not done, or that still hold a port. Those whose clean-up failed
 * before come last: they must not keep the others waiting.
 */
export async function listOpenJobs(db: Queryable, host: string): Promise<OpenJob[]> {
  const ports = sql<
    number[]
  >`array(select ${nbdExports.port} from ${nbdExports} where ${nbdExports.jobId} = ${backupJobs.id} order by 1)`;
  const { id, workflowId, runId, namespaceId } = backupJobs;
  // Also one that an import closed, after it had found that the database was older than the repository.
  const isComplete = sql<boolean>`${backupJobs.status} not in ('running', 'aborting')`;
  return db
    .select({
      ...{ id, vm: vmBackupContexts.vmName, workflowId, runId, ports },
      ...{ namespaceId, isGivenUp: isGivenUp(namespaceId), isComplete },
    })
    .from(backupJobs)
    .innerJoin(vmBackupContexts, eq(vmBackupContexts.id, backupJobs.contextId))
    .innerJoin(repositories, eq(repositories.id, vmBackupContexts.repositoryId))
    .where(
      and(
        eq(repositories.host, host),
        or(
          inArray(backupJobs.status, ['running', 'aborting']),
          eq(backupJobs.cleanUp, 'pending'),
          sql`exists (select 1 from ${nbdExports} where ${nbdExports.jobId} = ${backupJobs.id})`,
        ),
      ),
    )
    .orderBy(sql`${backupJobs.cleanUpError} is not null`, backupJobs.startedAt);
}
