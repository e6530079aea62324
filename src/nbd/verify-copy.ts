import { BackupError } from '../domain/errors.js';
import { firstUncovered, intersectExtents, totalBytes, type Extent } from '../domain/extents.js';
import { exportSizeBytes, mapExport, selectExtents } from './nbdinfo.js';

export interface VerifyCopyRequest {
  targetUri: string;
  sourceSizeBytes: number;
  /** What had to be copied (normalized), or null for a full. */
  extents: readonly Extent[] | null;
  signal: AbortSignal;
}

/**
 * Looks at the target through its export, before that is stopped: it has the source's size, and each changed extent lies
 * in this very file rather than in a parent. Reads no data; may be repeated.
 *
 * Of a full less can be shown without reading it all: clusters that are zero are not stored, whether the source had them
 * as data or as holes, so an absent cluster proves nothing. There the size, nbdcopy's exit code, its 100/100 and its flush
 * must do, until the restore point is verified by checksum.
 * @returns how much data the file itself holds, in whole clusters; those that only say that they are zero take no room in it
 * @throws BackupError CopyIncomplete
 */
export async function verifyCopy({
  targetUri,
  sourceSizeBytes,
  extents,
  signal,
}: VerifyCopyRequest): Promise<{ writtenBytes: number }> {
  const sizeBytes = await exportSizeBytes(targetUri, signal);
  if (sizeBytes !== sourceSizeBytes) {
    throw new BackupError(
      'CopyIncomplete',
      `Expected ${targetUri} to have ${sourceSizeBytes} bytes, found ${sizeBytes}`,
    );
  }
  const map = await mapExport(targetUri, 'qemu:allocation-depth', signal);
  const local = selectExtents(map, (depth) => depth === 1);
  const missingAt = extents ? firstUncovered(extents, local) : undefined;
  if (missingAt !== undefined) {
    throw new BackupError(
      'CopyIncomplete',
      `Expected all changed extents in ${targetUri} itself, found the byte at ${missingAt} only in a parent or nowhere`,
      { details: { offset: missingAt } },
    );
  }
  const allocation = await mapExport(targetUri, 'base:allocation', signal);
  const data = selectExtents(allocation, (flags) => flags === 0);
  return { writtenBytes: totalBytes(intersectExtents(local, data)) };
}
