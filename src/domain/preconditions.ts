import { BackupError } from './errors.js';
import { formatBytes } from './format-bytes.js';
import { planReasons, type DiskPlan } from './plan.js';

/** @throws BackupError VMNotRunning when the VM is shut off: before anything is made, and before its disks are looked at */
export function requireRunning(vm: { name: string; state: string }): void {
  if (vm.state !== 'shut off') return; // what other states allow, the hypervisor says
  throw new BackupError(
    'VMNotRunning',
    `Expected VM '${vm.name}' running or paused, found it shut off; start it, or start it paused to keep its guest from running, and back it up again`,
  );
}

/** @throws BackupError DiskEncrypted: a hypervisor decrypts what we read, so a backup lies in clear, which a person has to want */
export function requirePlaintextAllowed(
  vm: string,
  disks: readonly { key: string; isEncrypted: boolean }[],
  allowPlaintext: boolean,
): void {
  const encrypted = disks.filter(({ isEncrypted }) => isEncrypted).map(({ key }) => `'${key}'`);
  if (encrypted.length === 0 || allowPlaintext) return;
  throw new BackupError(
    'DiskEncrypted',
    `cannot back up VM '${vm}': disk ${encrypted.join(', ')} is encrypted, and its backup would lie in the repository in clear; leave it out, or set allowPlaintext (--allow-plaintext)`,
  );
}

/** @throws BackupError NoParent when only incrementals were asked for, and no disk has anything to start from */
export function requireParent(
  vm: string,
  requested: 'auto' | 'full' | 'incremental',
  plans: readonly DiskPlan[],
): void {
  if (requested !== 'incremental' || plans.some(({ type }) => type === 'incremental')) return;
  const reasons = plans.map(({ key, reason }) => `'${key}': ${planReasons[reason]}`).join(', ');
  throw new BackupError(
    'NoParent',
    `Expected an incremental of VM '${vm}', but no disk has a restore point to start from (${reasons}); use type 'auto' or 'full'`,
  );
}

/** @throws BackupError RepositoryFull when all copies together will not fit */
export function requireRepositorySpace(
  repository: string,
  disks: readonly { changedBytes: number }[],
  freeBytes: number,
): void {
  const neededBytes = disks.reduce((sum, { changedBytes }) => sum + changedBytes, 0);
  if (neededBytes <= freeBytes) return;
  throw new BackupError(
    'RepositoryFull',
    `Expected ${formatBytes(neededBytes)} free in repository '${repository}', found ${formatBytes(freeBytes)}; free some, or use another repository`,
  );
}
