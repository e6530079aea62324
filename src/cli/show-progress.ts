import { EventEmitter } from 'node:events';
import { Listr, ListrLogger, ProcessOutput, type ListrTask } from 'listr2';
import { formatBytes } from '../domain/format-bytes.js';
import { printable } from './format.js';
import { describeReason } from './show-job.js';
import { hasColours, type CommonOptions, type Terminal } from './terminal.js';
import type { BackupView, DiskView } from './watch-backup.js';

export interface ProgressDisplay {
  show: (view: BackupView) => void;
  /** `left`: nobody watches any more, the backup goes on. */
  end: (how: End) => Promise<void>;
}

/** Live lines on a terminal, plain lines elsewhere, nothing with `--json`. */
export function createProgressDisplay(terminal: Terminal, { json }: CommonOptions, title: string): ProgressDisplay {
  if (json) return { show: () => undefined, end: async () => undefined };
  const isWide = (terminal.stdout.columns ?? 0) >= 40; // `docker exec -t` and the like may report 0
  return hasColours(terminal) && isWide ? createLiveDisplay(terminal, title) : createPlainDisplay(terminal, title);
}

/** One disk in one line: `vda  full (the first backup of this VM)  copying  45 %, 1.2 GiB of 2.6 GiB`. */
export function diskLine({ target, type, reason, phase, doneBytes, totalBytes }: DiskView): string {
  const plan = `${printable(target)}  ${type} (${describeReason(reason)})  ${phase}`;
  if (phase === 'copied' || phase === 'complete') return `${plan}  ${formatBytes(totalBytes)}`;
  if (phase !== 'copying' || totalBytes === 0) return plan;
  return `${plan}  ${percent(doneBytes, totalBytes)} %, ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
}

function percent(doneBytes: number, totalBytes: number): number {
  return Math.min(100, Math.floor((doneBytes / totalBytes) * 100));
}

function createPlainDisplay({ stdout }: Terminal, title: string): ProgressDisplay {
  const shown = new Map<string, string>();
  const showWhenNew = (key: string, state: string, line: string) => {
    if (shown.get(key) === state) return;
    shown.set(key, state);
    stdout.write(`${line}\n`);
  };
  stdout.write(`${title}\n`);
  return {
    show({ step, notice, disks }) {
      if (notice === null) shown.delete('notice');
      else showWhenNew('notice', notice, notice);
      if (step !== null) showWhenNew('step', step, step);
      for (const disk of disks) {
        // A log wants to know of progress, not of every second.
        const tenth = disk.totalBytes > 0 ? Math.floor(percent(disk.doneBytes, disk.totalBytes) / 10) : 0;
        showWhenNew(`disk ${disk.key}`, `${disk.type} ${disk.phase} ${tenth}`, `  ${diskLine(disk)}`);
      }
    },
    end: async () => undefined,
  };
}

type End = 'complete' | 'failed' | 'left';

interface LiveBackup {
  views: EventEmitter<{ view: [BackupView] }>;
  /** A promise and not an event: listr2 starts a disk's task some time after the view that named the disk. */
  ended: Promise<End>;
}

function createLiveDisplay({ stdout, stderr }: Terminal, title: string): ProgressDisplay {
  const views: LiveBackup['views'] = new EventEmitter();
  views.setMaxListeners(0); // one per disk
  let resolveEnded: (how: End) => void = () => undefined;
  const ended = new Promise<End>((resolve) => (resolveEnded = resolve));
  const streams = new ProcessOutput(stdout as NodeJS.WriteStream, stderr as NodeJS.WriteStream);
  const list = new Listr([createRootTask(title, { views, ended })], {
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
function createRootTask(title: string, { views, ended }: LiveBackup): ListrTask {
  return {
    title,
    task: async (_context, task) => {
      views.on('view', ({ step, notice }) => (task.title = [title, notice ?? step].filter(Boolean).join(': ')));
      const planned = new Promise<BackupView>((resolve) => {
        views.on('view', (view) => {
          if (view.disks.length > 0) resolve(view);
        });
      });
      const first = await Promise.race([planned, ended]);
      if (typeof first === 'string') return finish(first);
      return task.newListr(
        first.disks.map((disk) => createDiskTask(disk, { views, ended })),
        { concurrent: true, exitOnError: false },
      );
    },
  };
}

function createDiskTask(disk: DiskView, { views, ended }: LiveBackup): ListrTask {
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
