import { BackupError } from '../../domain/errors.js';
import { withFileIdentity } from '../../qemu/file-identity.js';
import { parseDomain, type DomainDisk } from './domain.js';
import type { VirshCall } from './virsh.js';

/** See `SourceDisk.identity`. */
export async function diskIdentity(disk: DomainDisk, signal?: AbortSignal): Promise<string> {
  return disk.file === null ? disk.source : withFileIdentity(disk.source, disk.file, signal);
}

/**
 * What the disks of an open snapshot stand on, in their order. `openedXml` is the live definition with the backup job open: no disk
 * can be exchanged until it ends, so it is that of the disks that the job reads.
 * @throws BackupError SourceFailed when the VM's disks changed places since the snapshot was prepared
 */
export async function openedIdentities(
  { signal }: VirshCall,
  vmId: string,
  openedXml: string,
  disks: readonly { key: string; target: string }[],
): Promise<string[]> {
  const domain = parseDomain(openedXml);
  const identities: string[] = [];
  for (const { key, target } of disks) {
    const disk = domain.disks.find((candidate) => candidate.key === key && candidate.target === target);
    if (!disk) {
      throw new BackupError(
        'SourceFailed',
        `disk '${key}' of VM ${vmId} left ${target} while its snapshot was being opened; back the VM up again`,
      );
    }
    identities.push(await diskIdentity(disk, signal));
  }
  return identities;
}
