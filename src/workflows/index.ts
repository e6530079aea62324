// Temporal bundles this file: every export is a workflow, under the name that people type.
export { BackupVM } from './backup-vm.js';
export { ReconcileHost } from './reconcile-host.js';
