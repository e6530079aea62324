// Temporal bundles this file: every export is a workflow, under the name that people type.
export { BackupVM } from './backup-vm.js';
export { DeleteBackup } from './delete-backup.js';
export { FinishDeletion } from './finish-deletion.js';
export { ForgetVM } from './forget-vm.js';
export { PruneBackups } from './prune-backups.js';
export { PruneVM } from './prune-vm.js';
export { ReconcileHost } from './reconcile-host.js';
export { RestoreVM } from './restore-vm.js';
export { VerifyBackup } from './verify-backup.js';
