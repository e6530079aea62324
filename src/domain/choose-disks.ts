import { BackupError } from './errors.js';

interface Disk {
  key: string;
  target: string;
  /** Why it cannot be backed up; null where it can. */
  skipReason: string | null;
}

/**
 * The disks to back up: those that are named (by key or target), else all that can be.
 * @throws BackupError DiskNotFound (a name that no disk has), InvalidInput (a disk that cannot be backed up, or none left)
 */
export function chooseDisks<T extends Disk>(
  vm: { name: string; disks: readonly T[] },
  names: readonly string[] | undefined,
): T[] {
  const known = vm.disks.map(({ key, target, skipReason }) => {
    const name = key === target ? `'${key}'` : `'${key}' (${target})`;
    return skipReason === null ? name : `${name}: ${skipReason}`;
  });
  if (names) {
    // A key counts before a target: one disk's serial may be another's place.
    const find = (name: string) =>
      vm.disks.find(({ key }) => key === name) ?? vm.disks.find(({ target }) => target === name);
    const missing = names.filter((name) => !find(name));
    if (missing.length > 0) {
      const list = missing.map((name) => `'${name}'`).join(', ');
      throw new BackupError(
        'DiskNotFound',
        `Expected disk ${list} of VM '${vm.name}', found only: ${known.join(', ') || 'no disk at all'}`,
      );
    }
    const found = new Set(names.map(find));
    const chosen = vm.disks.filter((disk) => found.has(disk));
    const skipped = chosen.filter(({ skipReason }) => skipReason !== null);
    if (skipped.length > 0) {
      const list = skipped.map(({ key, skipReason }) => `'${key}' (${skipReason})`).join(', ');
      throw new BackupError(
        'InvalidInput',
        `Disk ${list} of VM '${vm.name}' cannot be backed up; leave it out of 'disks'`,
      );
    }
    return chosen;
  }
  const chosen = vm.disks.filter(({ skipReason }) => skipReason === null);
  if (chosen.length > 0) return chosen;
  throw new BackupError(
    'InvalidInput',
    `VM '${vm.name}' has no disk that can be backed up: ${known.join(', ') || 'it has none at all'}`,
  );
}
