import type { BackupDisk } from '../db/disks.js';
import type { Manifest, ManifestDisk } from '../repository/manifest.js';
import type { JobRows } from './job-rows.js';

/** A disk as it stands in the manifest: its row, with what is known of its file. */
export type ManifestRow = BackupDisk & { checksum: string; hashesChecksum: string; fileBytes: number };

/** What stands beside the files of a restore point. */
export function pointManifest(
  { job, context, repository, hypervisor }: JobRows,
  disks: readonly ManifestDisk[],
): Manifest {
  return {
    format: 1,
    jobId: job.id,
    contextId: context.id,
    repositoryId: repository.id,
    hypervisor: { name: hypervisor.name, kind: hypervisor.kind, uri: hypervisor.uri, host: hypervisor.host },
    vm: { id: context.vmId, name: context.vmName },
    pointTime: job.pointTime.toISOString(),
    consistency: job.consistency ?? 'crash',
    vmConfig: job.vmConfig,
    disks: [...disks],
  };
}

/** A disk's part of it. */
export function manifestEntry(disk: ManifestRow, parent: BackupDisk | null): ManifestDisk {
  return {
    id: disk.id,
    key: disk.diskKey,
    target: disk.target,
    identity: disk.identity,
    type: disk.type,
    reason: disk.reason,
    parent: parent === null ? null : { id: parent.id, path: parent.path },
    path: disk.path,
    sizeBytes: disk.sizeBytes,
    wasEncrypted: disk.wasEncrypted,
    fileBytes: disk.fileBytes,
    checksum: disk.checksum,
    hashesChecksum: disk.hashesChecksum,
    changeId: disk.changeId,
  };
}
