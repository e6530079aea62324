import { setCurrentDetails, setHandler } from '@temporalio/workflow';
import { formatBytes } from '../domain/format-bytes.js';
import { planReasons } from '../domain/plan.js';
import { progressQuery, type BackupProgress, type DiskProgress } from './messages.js';

export interface Report {
  /** Says what the workflow is at. */
  step: (step: string) => void;
  /** Adds a disk, or changes what is known of it. */
  disk: (disk: Partial<DiskProgress> & { key: string }) => void;
  setDisks: (disks: DiskProgress[]) => void;
}

/** Keeps the `progress` query and the current details in the Web UI up to date. Writes no history. */
export function startReport(jobId: string, title: string): Report {
  const progress: BackupProgress = { jobId, step: 'starting', disks: [] };
  setHandler(progressQuery, () => progress, { description: 'What the backup is at, and how far each disk is' });
  const show = () => setCurrentDetails(details(title, progress));
  show();
  return {
    step(step) {
      progress.step = step;
      show();
    },
    disk(changes) {
      progress.disks = progress.disks.map((disk) => (disk.key === changes.key ? { ...disk, ...changes } : disk));
      show();
    },
    setDisks(disks) {
      progress.disks = disks;
      show();
    },
  };
}

function details(title: string, { jobId, step, disks }: BackupProgress): string {
  const rows = disks.map(
    ({ target, type, reason, phase, sizeBytes, changedBytes, writtenBytes }) =>
      `| ${target} | ${type} | ${planReasons[reason]} | ${phase} | ${formatBytes(sizeBytes)} | ${formatBytes(changedBytes)} | ${formatBytes(writtenBytes)} |`,
  );
  const table = [
    '| disk | type | reason | phase | size | changed | written |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    ...rows,
  ];
  return [`**${title}**: ${step}`, `job ${jobId}`, ...(disks.length > 0 ? [table.join('\n')] : [])].join('\n\n');
}
