import { join } from 'node:path';
import { getContext } from '../db/contexts.js';
import type { Queryable } from '../db/database.js';
import { getDisk, listDisks } from '../db/disks.js';
import { getHypervisor } from '../db/hypervisors.js';
import type { JobListing } from '../db/jobs.js';
import { listProtectionChanges } from '../db/protection.js';
import { listKept } from '../db/kept-disks.js';
import { getRepository } from '../db/repositories.js';
import { planReasons } from '../domain/plan.js';
import { formatBytes } from '../domain/format-bytes.js';
import { formatDuration, formatFields, formatTable, formatTime } from './format.js';
import { describeKept, untilText } from './kept.js';
import { protectionChangeText } from './protect.js';

export type JobDescription = Awaited<ReturnType<typeof describeJob>>;

/** All that is recorded of a job, as `show` prints it. */
export async function describeJob(db: Queryable, { job, vm, repository }: JobListing) {
  const context = await getContext(db, job.contextId);
  const hypervisor = await getHypervisor(db, context.hypervisorId);
  const { host, path: root } = await getRepository(db, context.repositoryId);
  const disks = await listDisks(db, job.id);
  return {
    ...{ id: job.id, vm, vmId: context.vmId, status: job.status, consistency: job.consistency },
    hypervisor: hypervisor.name,
    repository: { name: repository, host, path: root },
    ...{ pointTime: job.pointTime, startedAt: job.startedAt, finishedAt: job.finishedAt },
    ...{ cleanUp: job.cleanUp, cleanUpError: job.cleanUpError },
    ...{ hold: job.hold, immutableUntil: job.immutableUntil },
    kept: (await listKept(db, { jobId: job.id })).map(describeKept),
    protectionChanges: await listProtectionChanges(db, { jobId: job.id, repositoryId: context.repositoryId }),
    ...{ workflowId: job.workflowId, runId: job.runId, warnings: job.warnings, error: job.error },
    disks: await Promise.all(
      disks.map(async (disk) => ({
        ...{ id: disk.id, key: disk.diskKey, target: disk.target, status: disk.status },
        ...{ type: disk.type, reason: disk.reason, sizeBytes: disk.sizeBytes, changedBytes: disk.changedBytes },
        ...{ writtenBytes: disk.writtenBytes, fileBytes: disk.fileBytes, path: disk.path, checksum: disk.checksum },
        parent: disk.parentId === null ? null : await describeParent(db, disk.parentId),
        ...{ changeId: disk.changeId, nbdPort: disk.nbdPort, isHead: disk.isHead },
        ...{ hashesChecksum: disk.hashesChecksum, damage: disk.damage, wasEncrypted: disk.wasEncrypted },
      })),
    ),
  };
}

async function describeParent(db: Queryable, id: string) {
  const { jobId, path } = await getDisk(db, id);
  return { pointId: jobId, path };
}

/** A job for people: what it is, its disks in a table, then the facts of each disk. */
export function jobText(job: JobDescription, colours: boolean): string {
  const tookMs = (job.finishedAt ?? new Date()).getTime() - job.startedAt.getTime();
  const fields = formatFields([
    [job.status === 'complete' ? 'Restore point' : 'Job', job.id],
    ['VM', `${job.vm} (${job.vmId}) on hypervisor ${job.hypervisor}`],
    ['Repository', `${job.repository.name}: ${job.repository.path} on host ${job.repository.host}`],
    ['Status', job.status],
    ['Point in time', formatTime(job.pointTime)],
    ['Consistency', job.consistency ?? 'not known yet'],
    ['Started', `${formatTime(job.startedAt)}, ${job.finishedAt ? 'took' : 'runs for'} ${formatDuration(tookMs)}`],
    ['Workflow', `${job.workflowId}, run ${job.runId}`],
    ['Clean-up', job.cleanUpError === null ? job.cleanUp : `${job.cleanUp}: ${job.cleanUpError}`],
    ...(job.hold === null ? [] : [['Held', job.hold] as const]),
    ...(job.immutableUntil === null ? [] : [['Immutable until', formatTime(job.immutableUntil)] as const]),
    ...job.protectionChanges.map((change) => [formatTime(change.changedAt), protectionChangeText(change)] as const),
    ...job.kept.map((kept) => ['Replaced', `${kept.path}, kept as ${kept.keptPath} until ${untilText(kept)}`] as const),
    ...(job.error === null ? [] : [['Error', job.error] as const]),
    ...job.warnings.map((warning) => ['Warning', warning] as const),
  ]);
  if (job.disks.length === 0) return `${fields}\n\nNo disk was planned`;
  const table = formatTable(
    ['DISK', 'KEY', 'STATUS', 'TYPE', 'REASON', 'SIZE', 'CHANGED', 'WRITTEN', 'FILE'],
    job.disks.map((disk) => [
      ...[disk.target, disk.key, disk.status, disk.type, describeReason(disk.reason), formatBytes(disk.sizeBytes)],
      ...[formatBytes(disk.changedBytes), formatBytes(disk.writtenBytes)],
      disk.fileBytes === null ? '' : formatBytes(disk.fileBytes),
    ]),
    { right: ['SIZE', 'CHANGED', 'WRITTEN', 'FILE'], colours },
  );
  return [fields, table, ...job.disks.map((disk) => diskText(disk, job.repository.path))].join('\n\n');
}

function diskText(disk: JobDescription['disks'][number], root: string): string {
  return formatFields([
    ['Disk', `${disk.target} (${disk.key})`],
    ['File', join(root, disk.path)],
    ['Checksum', disk.checksum ?? 'none yet'],
    ['Parent', disk.parent ? `${disk.parent.path} (restore point ${disk.parent.pointId})` : 'none'],
    ['Change id', disk.changeId ?? 'none'],
    ...(disk.wasEncrypted ? [['Encryption', 'encrypted in the VM; this backup of it is in clear'] as const] : []),
    ...(disk.damage === null ? [] : [['Damage', disk.damage] as const]),
  ]);
}

/** The words of a reason; rows of a newer version may hold others. */
export function describeReason(reason: string): string {
  return (planReasons as Record<string, string | undefined>)[reason] ?? reason;
}
