import { z } from 'zod';
import { BackupError } from '../../domain/errors.js';
import { iothreadRisk } from '../../domain/iothread-safety.js';
import type { QMPClient } from './client.js';

/**
 * What reading these disks may do to the guest, or null: see `iothreadRisk`. QEMU tells which device an iothread serves only for some
 * devices, so where a process has iothreads, each disk counts as served by one.
 */
export async function findIothreadRisk(qmp: QMPClient, diskKeys: readonly string[]): Promise<string | null> {
  const types = await listObjectTypes(qmp);
  if (!types.includes('child<iothread>')) return null;
  const version = z.object({ major: z.number(), minor: z.number(), micro: z.number() });
  const { qemu } = z.object({ qemu: version }).parse(await qmp.execute('query-version'));
  return iothreadRisk(
    diskKeys.map((key) => ({ key, target: key })),
    qemu,
  );
}

/** A process that was started without any object has no folder for them: qemu-storage-daemon, for one. */
async function listObjectTypes(qmp: QMPClient): Promise<string[]> {
  try {
    const objects = z.array(z.object({ type: z.string() })).parse(await qmp.execute('qom-list', { path: '/objects' }));
    return objects.map(({ type }) => type);
  } catch (error) {
    if (error instanceof BackupError && error.details?.['class'] === 'DeviceNotFound') return [];
    throw error;
  }
}
