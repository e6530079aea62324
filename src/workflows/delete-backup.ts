import type { DeletedPoint, DeletionTarget } from '../activities/deletion-plan.js';
import { parseDeleteBackupInput, type DeleteBackupInput, type DeleteBackupRequest } from '../domain/delete-input.js';
import { deletePoints } from './delete-points.js';
import { closingFailure } from './failures.js';
import { startStepReport } from './report.js';
import { jobSteps, probeDeletionSteps } from './steps.js';

/** The result of DeleteBackup. */
export interface DeleteBackupResult {
  vm: string;
  repository: string;
  dryRun: boolean;
  /** Whether all of the VM's backups in this repository are gone, failed ones included. */
  all: boolean;
  /** What was deleted, or would be; oldest first. */
  points: DeletedPoint[];
  /** What was left undone, and does not matter to the backups. */
  warnings: string[];
}

/**
 * Deletes one restore point, or all of one VM in one repository: files first, rows after. What needs a deleted point keeps it from
 * being deleted, goes with it, or gets its data. Whatever happens, restore points that stay read as before.
 */
export async function DeleteBackup(request: DeleteBackupRequest): Promise<DeleteBackupResult> {
  let host: string | undefined;
  try {
    const input = parseDeleteBackupInput(request);
    const { point, vm, all, repository, hypervisor } = input;
    const title = point === undefined ? `Delete all backups of ${vm}` : `Delete restore point ${point}`;
    const say = startStepReport(title);
    const target = await jobSteps.lookUpDeletion({ point, vm, all, repository, hypervisor });
    host = target.host;
    const done = await deleteTarget(target, input, say);
    return { vm: target.vm, repository: target.repository, dryRun: input.dryRun, all, ...done };
  } catch (error) {
    throw closingFailure(error, host);
  }
}

async function deleteTarget(
  target: DeletionTarget,
  { descendants, dryRun }: DeleteBackupInput,
  say: (step: string) => void,
): Promise<Pick<DeleteBackupResult, 'points' | 'warnings'>> {
  const { contextId, host, jobIds } = target;
  if (dryRun) return { points: await jobSteps.previewDeletion({ contextId, jobIds, descendants }), warnings: [] };
  say(`asking host ${host} about the repository`);
  await probeDeletionSteps(host).probeDeletion({ contextId });
  return deletePoints({ contextId, host, purpose: 'delete' }, say, async () => ({ jobIds, descendants }));
}
