import { XMLBuilder, XMLParser } from 'fast-xml-parser';
import { z } from 'zod';

export interface BackupDiskPlan {
  target: string;
  scratchFile: string;
  /** Checkpoint to read the changes from, or null for the whole disk. */
  incremental: string | null;
}

const builder = new XMLBuilder({ ignoreAttributes: false, attributeNamePrefix: '@', suppressBooleanAttributes: false });
const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseAttributeValue: false,
  isArray: (_name, path) => ['domainbackup.disks.disk', 'domaincheckpoint.disks.disk'].includes(String(path)),
});

/**
 * A pull-mode backup of the disks in `plans`, all others left out. `type` and `<scratch>` are given for every disk:
 * without them libvirt 9 fails with an internal error instead of choosing a place.
 */
export function backupXml(socket: string, plans: readonly BackupDiskPlan[], otherTargets: readonly string[]): string {
  const disks = [
    ...plans.map(({ target, scratchFile, incremental }) => ({
      '@name': target,
      '@backup': 'yes',
      '@type': 'file',
      '@backupmode': incremental === null ? 'full' : 'incremental',
      ...(incremental === null ? {} : { '@incremental': incremental }),
      scratch: { '@file': scratchFile },
    })),
    ...otherTargets.map((target) => ({ '@name': target, '@backup': 'no' })),
  ];
  return builder.build({
    domainbackup: { '@mode': 'pull', server: { '@transport': 'unix', '@socket': socket }, disks: { disk: disks } },
  });
}

/** A checkpoint on `targets` only: one raw disk among those that libvirt picks itself would make the whole call fail. */
export function checkpointXml(
  name: string,
  targets: readonly string[],
  otherTargets: readonly string[],
  /** For a checkpoint that is only described to libvirt, since its bitmaps are there already. */
  creationTime?: number,
): string {
  const disks = [
    ...targets.map((target) => ({ '@name': target, '@checkpoint': 'bitmap' })),
    ...otherTargets.map((target) => ({ '@name': target, '@checkpoint': 'no' })),
  ];
  const existing = creationTime === undefined ? {} : { creationTime };
  return builder.build({ domaincheckpoint: { name, ...existing, disks: { disk: disks } } });
}

const backupSchema = z.object({
  domainbackup: z.object({ server: z.object({ '@socket': z.string().optional() }).optional().catch(undefined) }),
});

/** The NBD socket of a running backup job, from `virsh backup-dumpxml`; null for a job in another shape. */
export function parseBackupSocket(xml: string): string | null {
  return backupSchema.parse(parser.parse(xml)).domainbackup.server?.['@socket'] ?? null;
}

const checkpointSchema = z.object({
  domaincheckpoint: z.object({
    disks: z.object({
      disk: z.array(
        z.object({
          '@name': z.string(),
          '@checkpoint': z.string().optional(),
          '@bitmap': z.string().optional(),
          '@size': z.string().optional(),
        }),
      ),
    }),
  }),
});

export interface CheckpointDisk {
  target: string;
  bitmap: string;
  /** Whether QEMU could say how much the bitmap holds; it cannot for one that is missing or was not stored at a crash. */
  usable: boolean;
}

/** The disks that a checkpoint records, from `virsh checkpoint-dumpxml --size`. */
export function parseCheckpoint(xml: string): CheckpointDisk[] {
  return checkpointSchema
    .parse(parser.parse(xml))
    .domaincheckpoint.disks.disk.filter((disk) => disk['@checkpoint'] === 'bitmap')
    .map((disk) => ({
      target: disk['@name'],
      bitmap: disk['@bitmap'] ?? '',
      usable: disk['@size'] !== undefined,
    }));
}
