import { draftPath, replaceFile } from './durable.js';
import { removeFile } from './files.js';

/** What stands beside the files of a restore point, so that it can be understood without our database. Sizes in bytes. */
export interface Manifest {
  format: 1;
  jobId: string;
  contextId: string;
  repositoryId: string;
  vm: { id: string; name: string };
  pointTime: string;
  consistency: string;
  /** The VM's definition in the hypervisor's own format (domain XML), or null. */
  vmConfig: string | null;
  disks: ManifestDisk[];
}

export interface ManifestDisk {
  id: string;
  key: string;
  target: string;
  type: 'full' | 'incremental';
  reason: string;
  /** The backup disk that this one's file points to, and its path. Null for a full. */
  parent: { id: string; path: string } | null;
  /** Relative to the repository, as all paths here. */
  path: string;
  sizeBytes: number;
  fileBytes: number;
  /** `sha256:<hex>` of the file. */
  checksum: string;
  changeId: string | null;
}

/** Writes a restore point's manifest, durably. Safe to repeat. */
export async function writeManifest(path: string, manifest: Manifest): Promise<void> {
  await replaceFile(path, `${JSON.stringify(manifest, null, 2)}\n`);
}

/** Removes a manifest that was written for a restore point that never came to be. Safe to repeat. */
export async function removeManifest(path: string): Promise<void> {
  await removeFile(draftPath(path));
  await removeFile(path);
}
