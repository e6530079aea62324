import { EventEmitter } from 'node:events';
import { Listr, ListrLogger, ProcessOutput, type ListrTask } from 'listr2';
import { formatBytes } from '../domain/format-bytes.js';
import { printable } from './format.js';
import { hasColours, type CommonOptions, type Terminal } from './terminal.js';
import type { DiskView, WorkflowView } from './watch-workflow.js';

export interface ProgressDisplay<Disk extends DiskView> {
  show: (view: WorkflowView<Disk>) => void;
  /** `left`: nobody watches any more, the workflow goes on. */
  end: (how: End) => Promise<void>;
}

/** Live lines on a terminal, plain lines elsewhere, nothing with `--json`. */
export function createProgressDisplay<Disk extends DiskView>(
  terminal: Terminal,
  { json }: CommonOptions,
  { title, diskLine }: DisplayWords<Disk>,
): ProgressDisplay<Disk> {
  if (json) return { show: () => undefined, end: async () => undefined };
  const isWide = (terminal.stdout.columns ?? 0) >= 40; // `docker exec -t` and the like may report 0
  const create = hasColours(terminal) && isWide ? createLiveDisplay<Disk> : createPlainDisplay<Disk>;
  return create(terminal, { title, diskLine });
}

export interface DisplayWords<Disk extends DiskView> {
  title: string;
  /** One disk in one line. */
  diskLine: (disk: Disk) => string;
}

/** `45 %, 1.2 GiB of 2.6 GiB`. */
export function shareDone({ doneBytes, totalBytes }: DiskView): string {
  return `${percent(doneBytes, totalBytes)} %, ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
}

/** A log wants to know of progress, not of every second. */
function tenthOf({ phase, doneBytes, totalBytes }: DiskView): string {
  return `${phase} ${totalBytes > 0 ? Math.floor(percent(doneBytes, totalBytes) / 10) : 0}`;
}

function asideLine(disk: DiskView): string {
  return `disk ${printable(disk.key)}: ${disk.phase} ${shareDone(disk)}`;
}

function percent(doneBytes: number, totalBytes: number): number {
  return Math.min(100, Math.floor((doneBytes / totalBytes) * 100));
}

function createPlainDisplay<Disk extends DiskView>(
  { stdout }: Terminal,
  { title, diskLine }: DisplayWords<Disk>,
): ProgressDisplay<Disk> {
  const shown = new Map<string, string>();
  const showWhenNew = (key: string, state: string, line: string) => {
    if (shown.get(key) === state) return;
    shown.set(key, state);
    stdout.write(`${line}\n`);
  };
  stdout.write(`${title}\n`);
  return {
    show({ step, notice, disks, aside }) {
      if (notice === null) shown.delete('notice');
      else showWhenNew('notice', notice, notice);
      if (step !== null) showWhenNew('step', step, step);
      for (const disk of disks) showWhenNew(`disk ${disk.key}`, tenthOf(disk), `  ${diskLine(disk)}`);
      if (aside) showWhenNew(`disk ${aside.key}`, tenthOf(aside), `  ${asideLine(aside)}`);
    },
    end: async () => undefined,
  };
}

type End = 'complete' | 'failed' | 'left';

interface LiveWorkflow<Disk extends DiskView> extends DisplayWords<Disk> {
  views: EventEmitter<{ view: [WorkflowView<Disk>] }>;
  /** A promise and not an event: listr2 starts a disk's task some time after the view that named the disk. */
  ended: Promise<End>;
}

function createLiveDisplay<Disk extends DiskView>(
  { stdout, stderr }: Terminal,
  words: DisplayWords<Disk>,
): ProgressDisplay<Disk> {
  const views: LiveWorkflow<Disk>['views'] = new EventEmitter();
  views.setMaxListeners(0); // one per disk
  let resolveEnded: (how: End) => void = () => undefined;
  const ended = new Promise<End>((resolve) => (resolveEnded = resolve));
  const streams = new ProcessOutput(stdout as NodeJS.WriteStream, stderr as NodeJS.WriteStream);
  const list = new Listr([createRootTask({ ...words, views, ended })], {
    concurrent: true,
    exitOnError: false,
    forceTTY: true, // asked of our own stream above
    registerSignalListeners: false, // listr2 would end the program at Ctrl-C
    rendererOptions: {
      logger: new ListrLogger({ processOutput: streams }),
      collapseSubtasks: false,
      collapseErrors: false,
      showErrorMessage: false, // the command itself says what failed
      collapseSkips: false,
    },
  });
  const rendered = list.run();
  return {
    show: (view) => void views.emit('view', view),
    async end(how) {
      resolveEnded(how);
      await rendered;
    },
  };
}

/** Shows the step, and once the disks are planned a task for each of them. */
function createRootTask<Disk extends DiskView>(live: LiveWorkflow<Disk>): ListrTask {
  const { title, views, ended } = live;
  return {
    title,
    task: async (_context, task) => {
      views.on('view', ({ step, notice, aside }) => {
        const parts = [title, notice ?? step, notice === null && aside ? asideLine(aside) : null];
        task.title = parts.filter(Boolean).join(': ');
      });
      const planned = new Promise<WorkflowView<Disk>>((resolve) => {
        views.on('view', (view) => {
          if (view.disks.length > 0) resolve(view);
        });
      });
      const first = await Promise.race([planned, ended]);
      if (typeof first === 'string') return finish(first);
      return task.newListr(
        first.disks.map((disk) => createDiskTask(disk, live)),
        { concurrent: true, exitOnError: false },
      );
    },
  };
}

function createDiskTask<Disk extends DiskView>(disk: Disk, { views, ended, diskLine }: LiveWorkflow<Disk>): ListrTask {
  return {
    title: diskLine(disk),
    task: async (_context, task) => {
      views.on('view', ({ disks }) => {
        const current = disks.find(({ key }) => key === disk.key);
        if (current) task.title = diskLine(current);
      });
      const how = await ended;
      if (how === 'left') task.skip();
      else finish(how);
    },
  };
}

function finish(how: End): void {
  if (how === 'failed') throw new Error('failed');
}
