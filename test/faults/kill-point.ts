import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ActivityInterceptorsFactory } from '@temporalio/worker';

/**
 * Where a worker kills itself. `before`: the activity has not begun. `during`: at the activity's moment, see `moments`.
 * `after`: it has done its work, and nobody has heard of that.
 */
export interface KillPoint {
  workflowId: string;
  activity: string;
  phase: 'before' | 'during' | 'after';
}

/** What the worker tells of its death: the test looks whether it was the one that it meant. */
export interface Death extends KillPoint {
  /** Of `during`: whether the moment came before the activity was done. */
  inTime: boolean;
}

interface Places {
  scratchDir: string;
  runDir: string;
  repositoryPath: string;
}

/** Kills the worker at the point, once it has written its death down. */
export function killAt(point: KillPoint, places: Places, deathFile: string): ActivityInterceptorsFactory {
  const die = (inTime: boolean): void => {
    writeFileSync(deathFile, JSON.stringify({ ...point, inTime } satisfies Death));
    process.kill(process.pid, 'SIGKILL');
  };
  return ({ info }) => {
    if (info.activityType !== point.activity || info.workflowExecution?.workflowId !== point.workflowId) return {};
    return {
      inbound: {
        async execute(input, next) {
          if (point.phase === 'before') die(true);
          if (point.phase === 'after') return next(input).finally(() => die(true));
          const isNow = (moments[point.activity] ?? afterMs(2))(places);
          const watch = setInterval(() => isNow() && die(true), 1);
          return next(input).finally(() => {
            clearInterval(watch);
            die(false);
          });
        },
      },
    };
  };
}

/** Called as the activity begins; what it returns tells whether the moment has come. */
type Moment = (places: Places) => () => boolean;

/** Moments that can be seen from outside. Other activities are one query or one look: there 2 ms must do. */
const moments: Partial<Record<string, Moment>> = {
  openSnapshot:
    ({ scratchDir }) =>
    () =>
      filesBelow(scratchDir).length > 0,
  closeSnapshot: afterMs(4), // a few QMP commands, about 1 ms each
  startExport:
    ({ runDir }) =>
    () =>
      pidsIn(runDir).length > 0, // it runs, and its identity is not recorded
  transferDisk: () => () => childNames().includes('nbdcopy'),
  restoreDisk: () => () => childNames().includes('qemu-img'),
  stopExport:
    ({ runDir }) =>
    () =>
      pidsIn(runDir).some((pid) => !isRunning(pid)), // dead, and its port still leased
  sealRestorePoint: ({ repositoryPath }) => {
    const before = sealedNames(repositoryPath);
    return () => sealedNames(repositoryPath) > before; // the first of two disks has its final name
  },
  // The snapshot is closed; exports, change ids and files are still there.
  cleanUp: ({ scratchDir }) => {
    const hadSnapshot = filesBelow(scratchDir).length > 0;
    return hadSnapshot ? () => filesBelow(scratchDir).length === 0 : afterMs(4)();
  },
};

function afterMs(ms: number): () => () => boolean {
  return () => {
    const begun = performance.now();
    return () => performance.now() - begun >= ms;
  };
}

function filesBelow(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory, { recursive: true, encoding: 'utf8' }) : [];
}

const sealedNames = (path: string) => filesBelow(path).filter((file) => file.endsWith('.qcow2')).length;

function pidsIn(runDir: string): number[] {
  const directory = join(runDir, 'exports');
  const pids = filesBelow(directory).map((file) => Number(readOrNothing(join(directory, file))));
  return pids.filter((pid) => pid > 1);
}

function isRunning(pid: number): boolean {
  const state = /\) (\S)/.exec(readOrNothing(`/proc/${pid}/stat`))?.[1];
  return state !== undefined && state !== 'Z' && state !== 'X';
}

function childNames(): string[] {
  const children = readOrNothing(`/proc/${process.pid}/task/${process.pid}/children`).split(' ').filter(Boolean);
  return children.map((pid) => readOrNothing(`/proc/${pid}/comm`).trim());
}

function readOrNothing(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}
