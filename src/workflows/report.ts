import { setCurrentDetails, setHandler } from '@temporalio/workflow';
import { formatBytes } from '../domain/format-bytes.js';
import { planReasons } from '../domain/plan.js';
import { progressQuery, type DiskProgress } from './messages.js';

/** Keeps what people see of a workflow up to date: its step, and how far each disk is. */
export interface Report<Disk extends { key: string } = DiskProgress> {
  /** Says what the workflow is at. */
  step: (step: string) => void;
  /** Adds a disk, or changes what is known of it. */
  disk: (disk: Partial<Disk> & { key: string }) => void;
  setDisks: (disks: Disk[]) => void;
}

/** What is shown of each disk: a heading, and the words below it. */
export type Columns<Disk> = readonly (readonly [heading: string, words: (disk: Disk) => string])[];

const backupColumns: Columns<DiskProgress> = [
  ['disk', ({ target }) => target],
  ['type', ({ type }) => type],
  ['reason', ({ reason }) => planReasons[reason]],
  ['phase', ({ phase }) => phase],
  ['size', ({ sizeBytes }) => formatBytes(sizeBytes)],
  ['changed', ({ changedBytes }) => formatBytes(changedBytes)],
  ['written', ({ writtenBytes }) => formatBytes(writtenBytes)],
];

/** The report of a backup. */
export function startReport(jobId: string, title: string): Report {
  return startDiskReport({ title, subject: `job ${jobId}`, ids: { jobId }, columns: backupColumns });
}

/** Keeps the `progress` query and the current details in the Web UI up to date. Writes no history. */
export function startDiskReport<Disk extends { key: string }>({
  title,
  subject,
  ids,
  columns,
}: {
  title: string;
  /** What it is about, in a line of its own. */
  subject: string;
  /** What the query tells beside step and disks. */
  ids: Record<string, string>;
  columns: Columns<Disk>;
}): Report<Disk> {
  const progress = { ...ids, step: 'starting', disks: [] as Disk[] };
  setHandler(progressQuery, () => progress, { description: 'What the workflow is at, and how far each disk is' });
  const show = () => {
    const table = progress.disks.length > 0 ? [tableOf(progress.disks, columns)] : [];
    setCurrentDetails([`**${title}**: ${progress.step}`, subject, ...table].join('\n\n'));
  };
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

/** The same for a workflow whose disks people need not see. @returns what says the step */
export function startStepReport(title: string): (step: string) => void {
  const progress = { step: 'starting', disks: [] };
  setHandler(progressQuery, () => progress, { description: 'What the workflow is at' });
  const say = (step: string) => {
    progress.step = step;
    setCurrentDetails(`**${title}**: ${step}`);
  };
  say(progress.step);
  return say;
}

function tableOf<Disk>(disks: readonly Disk[], columns: Columns<Disk>): string {
  const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const rows = disks.map((disk) => row(columns.map(([, words]) => words(disk))));
  return [row(columns.map(([heading]) => heading)), row(columns.map(() => '---')), ...rows].join('\n');
}
