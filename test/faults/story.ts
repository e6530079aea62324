import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, inject } from 'vitest';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { ReconcileHostResult } from '../../src/workflows/reconcile-host.js';
import { firstDifference, restore } from '../support/content.js';
import { findDamage, findLeftovers, ownProcesses, type Leftovers } from '../support/end-state.js';
import { createLab, type BackupHandle, type Lab, type LabOptions, type Servers } from '../support/lab.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { holdNextCopy } from './held-copies.js';
import type { KillPoint } from './kill-point.js';
import { startWorkerProcess, type WorkerProcess } from './worker-process.js';

export const MiB = 1024 * 1024;
const disks = [
  { key: 'root', sizeBytes: 4 * MiB },
  { key: 'data', sizeBytes: 2 * MiB },
];

/** The workflow that the fault meets; the backups before and after it have ids of their own. */
export const faultyId = 'backup-vm/vm/faulty';

/**
 * One row of the fault table: a VM with a sealed full, a backup that meets the fault, and what must be true afterwards. Keeps a
 * raw witness of what the disks held at each restore point.
 */
export interface Story {
  lab: Lab;
  vm: StorageDaemon;
  firstWorker: WorkerProcess;
  /** Another one, which the story ends. */
  startWorker: (killPoint?: KillPoint) => Promise<WorkerProcess>;
  /** The guest writes, and the backup that meets the fault begins. */
  startFaulty: (options?: FaultyOptions) => Promise<BackupHandle>;
  /** Holds the faulty backup in the middle of its copies: none comes to its end until `vm.resume`. */
  holdCopies: () => Promise<void>;
  /** The guest writes, and one more restore point is sealed. @returns its id */
  addPoint: () => Promise<string>;
  /** Waits until nothing is left of what was ended: the host does that by itself, on its schedule. */
  untilCleanedUp: () => Promise<void>;
  /** Waits for a run of the host's schedule that begins from now on. @returns its result */
  nextReconcile: () => Promise<ReconcileHostResult>;
  /** See `expectRecovered`. */
  expectRecovered: (expected: Recovery) => Promise<void>;
}

export interface FaultyOptions {
  quiesce?: 'require';
  compare?: true;
  workflowExecutionTimeout?: '20s';
}

export interface Recovery {
  /** How the faulty backup ended, as the job's row says it; `none` where no job came to be. */
  outcome: 'complete' | 'failed' | 'cancelled' | 'none';
  /** Restore points that are gone. */
  deleted?: string[];
  /** Types of the next backup's disks. Default: incremental. */
  next?: 'full';
}

export interface StoryOptions extends LabOptions {
  /** Default: those that the whole test run shares. */
  servers?: Servers;
  /** Of the first worker. */
  killPoint?: KillPoint | readonly KillPoint[];
  /** What has to be undone before the lab's directory can go. */
  beforeClose?: () => Promise<void>;
}

/** For rows that wait for the host's schedule: minutes in real life. */
export const fastReconcile: StoryOptions = { reconcileIntervalMs: 5_000 };

const nothing: Leftovers = {
  ...{ processes: [], leases: [], chainLeases: [], openSockets: [], source: [], openJobs: [] },
  ...{
    tombstones: [],
    damageMarks: [],
    unfinished: [],
    strayFiles: [],
    keptWithoutRow: [],
    scratch: [],
    run: [],
    temporary: [],
  },
};

/** Tells one story in a lab of its own, and clears it away. The full is sealed, by the first worker, when `tell` is called. */
export async function withStory(
  purpose: string,
  tell: (story: Story) => Promise<void>,
  options: StoryOptions = {},
): Promise<void> {
  const servers = options.servers ?? {
    templateDatabaseUrl: inject('templateDatabaseUrl'),
    temporalAddress: inject('temporalAddress'),
  };
  const lab = await createLab(purpose, servers, options);
  const workers: WorkerProcess[] = [];
  const bundle = { workerPath: inject('workerPath'), workflowPath: inject('workflowBundlePath') };
  try {
    const startWorker = async (killPoint: StoryOptions['killPoint'] = []) => {
      const worker = await startWorkerProcess(lab, bundle, [killPoint].flat());
      workers.push(worker);
      return worker;
    };
    const firstWorker = await startWorker(options.killPoint);
    await tell({ ...(await beginStory(lab)), startWorker, firstWorker });
  } finally {
    await Promise.all(workers.map((worker) => worker.kill()));
    for (const { pid } of await ownProcesses(lab)) killIfThere(pid);
    await options.beforeClose?.();
    await lab.close();
  }
}

/** A VM with a sealed full, whose worker runs. */
export async function beginStory(lab: Lab): Promise<Omit<Story, 'startWorker' | 'firstWorker'>> {
  const vm = await lab.startVM('vm', disks);
  const witnesses: string[] = [];
  const points: { jobId: string; witness: string; disks: { key: string; path: string }[] }[] = [];

  async function keepWitness(): Promise<string> {
    const directory = join(lab.directory, 'witnesses', String(witnesses.length));
    await mkdir(directory, { recursive: true });
    for (const { key } of disks) await vm.read(key, join(directory, key));
    witnesses.push(directory);
    return directory;
  }
  async function backUp(workflowId: string): Promise<BackupVMResult> {
    const witness = await keepWitness();
    const result = await lab.backUp({ vm: 'vm' }, workflowId);
    points.push({ jobId: result.jobId, witness, disks: result.disks });
    return result;
  }

  for (const { key } of disks) await vm.write(key, 0, MiB, 0x11);
  await backUp('backup-vm/vm/first');
  return {
    lab,
    vm,
    async startFaulty({ workflowExecutionTimeout, ...options } = {}) {
      await vm.write('root', MiB / 2, MiB, 0x22);
      await vm.zero('data', 0, MiB / 2);
      await keepWitness();
      return lab.start(
        { vm: 'vm', repository: 'store', ...options },
        faultyId,
        workflowExecutionTimeout && { workflowExecutionTimeout },
      );
    },
    holdCopies: () => holdCopies(lab, vm),
    async addPoint() {
      await vm.write('root', MiB / 4, MiB, 0x55 + points.length);
      await vm.zero('data', MiB / 2, MiB / 4);
      return (await backUp(`backup-vm/vm/${points.length}`)).jobId;
    },
    untilCleanedUp: () => untilCleanedUp(lab),
    nextReconcile: () => nextReconcile(lab),
    async expectRecovered({ outcome, next, deleted = [] }) {
      await expectNothingLeft(lab);
      const faulty = await faultyJob(lab);
      expect(faulty?.status ?? 'none').toBe(outcome);
      if (faulty?.status === 'complete')
        points.push({ jobId: faulty.jobId, witness: witnesses[1] ?? '', disks: faulty.disks });

      await vm.write('root', 2 * MiB, MiB / 4, 0x33);
      await vm.write('data', MiB / 4, MiB / 2, 0x44);
      const { disks: types } = await backUp('backup-vm/vm/next');
      expect(types.map(({ type }) => type)).toEqual(disks.map(() => next ?? 'incremental'));
      await expectNothingLeft(lab);
      expect((await sealedJobs(lab)).filter((jobId) => deleted.includes(jobId))).toEqual([]);
      for (const point of points) if (!deleted.includes(point.jobId)) await expectSameAsWitness(lab, point);
    },
  };
}

const isEmpty = (found: Leftovers) => Object.values(found).every((list: unknown[]) => list.length === 0);

/** No process, lease, open port, snapshot, unfinished file or open job; every restore point whole and as it was sealed. */
async function expectNothingLeft(lab: Lab): Promise<void> {
  // What the fault killed may still be on its way out; workflows are not waited for: they have ended.
  await until('nothing to be left', async () => isEmpty(await findLeftovers(lab)), 5_000).catch(() => undefined);
  expect(await findLeftovers(lab)).toEqual(nothing);
  expect(await findDamage(lab)).toEqual({ missingFiles: [], changedFiles: [] });
}

/** The schedule's interval, and a minute for a step whose worker died: then it is taken by the next one. */
const cleanUpMs = 120_000;

async function untilCleanedUp(lab: Lab): Promise<void> {
  await until('the host to clean up', async () => isEmpty(await findLeftovers(lab)), cleanUpMs).catch(() => undefined);
  expect(await findLeftovers(lab)).toEqual(nothing);
}

async function nextReconcile(lab: Lab): Promise<ReconcileHostResult> {
  const schedule = lab.client.schedule.getHandle(`reconcile/${lab.config.host}`);
  const since = new Date();
  const { workflow } = await until(
    'the schedule to run',
    async () => {
      const { info } = await schedule.describe();
      return info.recentActions.find(({ takenAt }) => takenAt > since)?.action;
    },
    cleanUpMs,
  );
  const handle = lab.client.workflow.getHandle(workflow.workflowId, workflow.firstExecutionRunId);
  return (await handle.result()) as ReconcileHostResult;
}

async function expectSameAsWitness(
  lab: Lab,
  point: { witness: string; disks: { key: string; path: string }[] },
): Promise<void> {
  for (const { key, path } of point.disks) {
    const restored = join(lab.directory, 'restored');
    await restore(join(lab.repository.path, path), restored);
    const differs = await firstDifference(join(point.witness, key), restored);
    expect(differs, `first differing byte of ${path}`).toBeUndefined();
  }
}

async function sealedJobs({ database }: Lab): Promise<string[]> {
  const { rows } = await database.pool.query<{ id: string }>(`select id from backup_jobs where status = 'complete'`);
  return rows.map(({ id }) => id);
}

/** The last job of the faulty workflow: one that was reset to its start has another one before it. */
async function faultyJob(
  lab: Lab,
): Promise<{ jobId: string; status: Recovery['outcome']; disks: { key: string; path: string }[] } | undefined> {
  interface Row {
    jobId: string;
    status: Recovery['outcome'];
    key: string | null;
    path: string;
  }
  const { rows } = await lab.database.pool.query<Row>(
    `select j.id as "jobId", j.status, d.disk_key as key, d.path from backup_jobs j left join backup_disks d on d.job_id = j.id
     where j.workflow_id = $1 and j.started_at = (select max(started_at) from backup_jobs where workflow_id = $1)`,
    [faultyId],
  );
  const last = rows.at(-1);
  const { jobId = '', status = 'none' } = last ?? {};
  return last && { jobId, status, disks: rows.flatMap(({ key, path }) => (key === null ? [] : [{ key, path }])) };
}

/** Stops the storage daemon before a copy begins, nbdkit included: whoever reads from it waits, and the other disk's copy too. */
async function holdCopies(lab: Lab, vm: StorageDaemon): Promise<void> {
  await holdNextCopy(lab.directory, () => vm.pause());
  await until('nbdcopy to wait', async () => {
    const programs = (await ownProcesses(lab)).map(({ program }) => program);
    return programs.includes('nbdcopy') && programs.includes('nbdkit');
  });
}

/** The copies notice at a heartbeat that their run is gone, and end although their source hangs; nbdkit with them. */
export async function untilCopiesEnded(lab: Lab): Promise<void> {
  await until('the copies to end by themselves', async () =>
    (await ownProcesses(lab)).every(({ program }) => program === 'qemu-nbd'),
  );
}

/** Kills one process; one that is gone is success. */
export function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
