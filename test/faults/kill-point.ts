import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Info } from '@temporalio/activity';
import type { ActivityInterceptorsFactory } from '@temporalio/worker';
import { until } from '../support/until.js';

/**
 * Where a worker kills itself. `before`: the activity has not begun. `during`: at the activity's moment, see `moments`.
 * `after`: it has done its work, and nobody has heard of that.
 */
export interface KillPoint {
  /** Of the workflow, or of the one that has it as a child. */
  workflowId: string;
  activity: string;
  phase: 'before' | 'during' | 'after';
  /** It is stopped instead, as a machine is that is paused, until somebody wakes it (SIGCONT): its attempt comes late then. */
  freezes?: true;
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

/**
 * Kills the worker at the point, once it has written its death down. Of several, whoever reaches its own waits there for the
 * others, so that one death meets a workflow at each; `during` cannot wait, so it comes last, and there is one at most.
 */
export function killAt(points: readonly KillPoint[], places: Places, deathFile: string): ActivityInterceptorsFactory {
  const reached = new Set<KillPoint>();
  const die = (point: KillPoint, inTime: boolean): void => {
    if (existsSync(deathFile)) return; // it was frozen, and goes on
    // Whole or not at all: the test reads it as soon as it is there.
    writeFileSync(`${deathFile}.draft`, JSON.stringify({ ...point, inTime } satisfies Death));
    renameSync(`${deathFile}.draft`, deathFile);
    process.kill(process.pid, point.freezes ? 'SIGSTOP' : 'SIGKILL');
  };
  const reach = (point: KillPoint): Promise<never> => {
    reached.add(point);
    if (reached.size === points.length) die(point, true);
    return new Promise(() => undefined);
  };
  const othersAreThere = () => until('the other kill points', () => reached.size === points.length - 1);
  const freezeIn = async (point: KillPoint, step: () => Promise<unknown>): Promise<unknown> => {
    if (point.phase === 'before') die(point, true);
    const isNow = momentOf(point)(places);
    const watch = setInterval(() => isNow() && die(point, true), 1);
    try {
      return await step();
    } finally {
      clearInterval(watch);
      die(point, false);
      writeFileSync(endOfLateStep(deathFile), '');
    }
  };
  return ({ info }) => {
    const point = points.find(({ activity, workflowId }) => activity === info.activityType && isOf(info, workflowId));
    if (!point) return {};
    return {
      inbound: {
        async execute(input, next) {
          if (existsSync(deathFile)) return next(input); // woken, it does what comes
          if (point.freezes) return freezeIn(point, () => next(input));
          if (point.phase === 'before') return reach(point);
          if (point.phase === 'after') return next(input).finally(() => reach(point));
          await othersAreThere();
          const isNow = momentOf(point)(places);
          const watch = setInterval(() => isNow() && die(point, true), 1);
          return next(input).finally(() => {
            clearInterval(watch);
            die(point, false);
          });
        },
      },
    };
  };
}

function isOf({ workflowExecution }: Info, workflowId: string): boolean {
  const id = workflowExecution?.workflowId;
  return id === workflowId || id?.startsWith(`${workflowId}/`) === true;
}

/** Called as the activity begins; what it returns tells whether the moment has come. */
type Moment = (places: Places) => () => boolean;

const momentOf = ({ activity }: KillPoint) => moments[activity] ?? afterMs(2);

/** A file that is there once a step has ended in which its worker was frozen. */
export function endOfLateStep(deathFile: string): string {
  return `${deathFile}.late`;
}

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
  verifyChain: () => () => childNames().includes('openssl'), // it reads a file for its checksum
  finishDeletion: () => () => childNames().includes('qemu-img'), // it merges
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
