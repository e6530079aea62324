import { sleep } from '@temporalio/workflow';
import type { BackupVMRequest } from '../../../src/domain/backup-input.js';
import type { BackupVMResult } from '../../../src/domain/result.js';
import { BackupVM as today } from '../../../src/workflows/backup-vm.js';

/** A mistake on purpose: runs that are under way have not waited. */
export async function BackupVM(request: BackupVMRequest): Promise<BackupVMResult> {
  await sleep('1 minute');
  return today(request);
}
