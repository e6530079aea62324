import { BackupError } from './errors.js';

export interface QEMUVersion {
  major: number;
  minor: number;
  micro: number;
}

/**
 * Whether QEMU's NBD server can serve a disk that has an iothread. Until it was made thread-safe, QEMU aborts when a reader of such a
 * disk disconnects. Made so in 9.0 (commits f816310d0c and 7075d23511), and in 8.2.3 by a backport. Distributions carry patches of
 * their own, so what is neither known to be good nor seen to crash is unknown.
 */
const knownVersions: readonly { is: (version: QEMUVersion) => boolean; verdict: 'good' | 'bad' }[] = [
  { is: ({ major }) => major >= 9, verdict: 'good' },
  { is: ({ major, minor, micro }) => major === 8 && minor === 2 && micro >= 3, verdict: 'good' },
  { is: ({ major, minor }) => major === 7 && minor === 2, verdict: 'bad' }, // 7.2.22 of Debian 12: each time
];

const remedy =
  "update QEMU to 9.0 (or 8.2.3) and start the VM again, take the iothread from the disk or its controller, leave the disk out with 'disks', or take the risk with 'allowIothreads'";

/** What reading these disks of a VM may do to its guest; null where it is known to be safe. `version` is null where QEMU does not say. */
export function iothreadRisk(
  disks: readonly { key: string; target: string }[],
  version: QEMUVersion | null,
): string | null {
  if (disks.length === 0) return null;
  const verdict = version && knownVersions.find(({ is }) => is(version))?.verdict;
  if (verdict === 'good') return null;
  const name = version ? `QEMU ${version.major}.${version.minor}.${version.micro}` : 'QEMU of an unknown version';
  const list = disks.map(({ key, target }) => (key === target ? `'${key}'` : `'${key}' (${target})`)).join(', ');
  return verdict === 'bad'
    ? `disk ${list} has an iothread, and ${name} crashes the guest when such a disk is read by a backup`
    : `disk ${list} has an iothread, and ${name} is not known to be safe: it may crash the guest when such a disk is read by a backup`;
}

/** The refusal that a risk leads to. */
export function guestAtRisk(vm: string, risk: string): BackupError {
  return new BackupError('GuestAtRisk', `cannot back up VM '${vm}': ${risk}; ${remedy}`);
}

/** A failure after the risk was taken: whoever reads it must not search for another cause. */
export function afterRisk(error: unknown, risk: string | null): unknown {
  if (risk === null || !(error instanceof BackupError)) return error;
  const { code, message, details } = error;
  return new BackupError(code, `${message} (${risk}, which 'allowIothreads' accepted)`, { cause: error, details });
}

/** The warning that an accepted risk leaves on the job. */
export function acceptedRisks(risk: string | null): string[] {
  return risk === null ? [] : [`${risk}; backed up all the same, since 'allowIothreads' is set`];
}
