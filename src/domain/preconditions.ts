import { BackupError } from './errors.js';
import { formatBytes } from './format-bytes.js';
import { planReasons, type DiskPlan } from './plan.js';

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
