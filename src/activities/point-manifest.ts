import type { Database } from '../db/database.js';
import { getDisk, listDisks, type BackupDisk } from '../db/disks.js';
import { manifestPath } from '../domain/names.js';
import { insideRepository, requirePlainFolders } from '../repository/files.js';
import { publishManifest, type Manifest, type ManifestDisk } from '../repository/manifest.js';
import { getJobRows, type JobRows } from './job-rows.js';

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

/**
 * Gives the manifest of a sealed job its final name, if it has none yet: after the seal, or after a crash between the two. Safe to
 * repeat.
 */
export async function publishPoint(db: Database, jobId: string): Promise<void> {
  const rows = await getJobRows(db, jobId);
  const path = manifestPath(rows.context.directory, rows.job.pointTime);
  await requirePlainFolders(rows.repository.path, path);
  await publishManifest(insideRepository(rows.repository.path, path), await sealedManifest(db, rows));
}

/** The manifest of a sealed job, from its rows; `changed` stands for the disk of the same id. */
export async function sealedManifest(db: Database, rows: JobRows, changed?: BackupDisk): Promise<Manifest> {
  const entries: ManifestDisk[] = [];
  for (const row of await listDisks(db, rows.job.id)) {
    const disk = row.id === changed?.id ? changed : row;
    const parent = disk.parentId === null ? null : await getDisk(db, disk.parentId);
    entries.push(manifestEntry(sealedRow(disk), parent));
  }
  return pointManifest(rows, entries);
}

function sealedRow(disk: BackupDisk): ManifestRow {
  const { checksum, hashesChecksum, fileBytes } = disk;
  if (checksum !== null && hashesChecksum !== null && fileBytes !== null) {
    return { ...disk, checksum, hashesChecksum, fileBytes };
  }
  throw new TypeError(`Expected disk ${disk.id} sealed, found it ${disk.status}`);
}
