/**
 * Encodes a name from outside (a VM's, a disk's) as one path component: letters, digits, `_`, `-` and inner dots stay, every
 * other byte of its UTF-8 becomes `%XX`. Two names never share a component. What would grow past 60 characters is cut, and
 * carries a hash of the whole instead: a file's name holds two components and may have 255 bytes.
 */
export function pathComponent(name: string): string {
  const bytes = new TextEncoder().encode(name);
  let encoded = '';
  for (const [index, byte] of bytes.entries()) {
    const char = String.fromCharCode(byte);
    const isPlain = /[A-Za-z0-9_-]/.test(char) || (char === '.' && index > 0);
    encoded += isPlain ? char : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  if (encoded === '') return '%';
  return encoded.length <= 60 ? encoded : `${encoded.slice(0, 40)}%~${fnv1a64(bytes)}`;
}

/** FNV-1a, 64 bits, in hex. `%~` before it cannot come out of the encoding itself, so a cut name meets no whole one. */
function fnv1a64(bytes: Uint8Array): string {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return hash.toString(16).padStart(16, '0');
}

/** `20261123-014500`, in UTC. */
export function timestamp(time: Date): string {
  return time.toISOString().slice(0, 19).replaceAll(/[-:]/g, '').replace('T', '-');
}

/** Where a disk's file of one restore point lies, relative to the repository. `directory` is the context's. */
export function diskFilePath(directory: string, diskKey: string, pointTime: Date): string {
  const disk = pathComponent(diskKey);
  return `${directory}/${disk}/backup-${directory}-${disk}-${timestamp(pointTime)}.qcow2`;
}

/** Where the block hashes of a disk's file lie: beside it. */
export function hashesFilePath(diskPath: string): string {
  return `${diskPath.replace(/\.qcow2$/, '')}.hashes`;
}

/** Where a restore point's manifest lies, relative to the repository. */
export function manifestPath(directory: string, pointTime: Date): string {
  return `${directory}/backup-${directory}-${timestamp(pointTime)}.json`;
}

/** The file that an attempt writes, beside the final one. The name says whose it is: no two attempts share one, also after a reset. */
export function attemptFilePath(finalPath: string, jobId: string, attempt: string): string {
  const slash = finalPath.lastIndexOf('/');
  return `${finalPath.slice(0, slash + 1)}.${jobId}.${attempt}.${finalPath.slice(slash + 1)}.partial`;
}

/** The name of a restored disk's file. */
export function restoredFileName(vmName: string, target: string, format: 'qcow2' | 'raw'): string {
  return `${pathComponent(vmName)}-${pathComponent(target)}.${format}`;
}

/** Beside a file that a restore makes: the unfinished one, and the one that was there before. Lease and target say whose. */
export function restoreSiblings(
  path: string,
  leaseId: string,
  target: string,
): { attemptPath: string; keptPath: string } {
  const stem = `${path.slice(0, path.lastIndexOf('/') + 1)}.${leaseId}.${pathComponent(target)}`;
  return { attemptPath: `${stem}.partial`, keptPath: `${stem}.before` };
}

/** What the names of all our exports begin with. */
export const exportNamePrefix = 'backupvm/';

/** The NBD export's name: says in `ps` and in the server's log whose it is. */
export function exportName(jobId: string, diskKey: string): string {
  return `${exportNamePrefix}${jobId}/${pathComponent(diskKey)}`;
}
