import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { holdClaims, pendingSteps } from '../support/hold-claims.js';
import { holdTable, type HeldTable } from '../support/hold-table.js';
import { keptNames } from '../support/kept.js';
import {
  expectContent,
  expectNoRestoreLeft,
  refusalOf,
  restoreVM,
  startRestore,
  targetDirectory,
} from '../support/restores.js';
import { makeSmallFileSystem } from '../support/small-file-system.js';
import { until } from '../support/until.js';
import type { Lab } from '../support/lab.js';
import type { KillPoint } from './kill-point.js';
import { fastReconcile, MiB, withStory, type Story } from './story.js';
import type { WorkerProcess } from './worker-process.js';

const workflowId = 'restore-vm/vm/faulty';
const names = ['vm-data.qcow2', 'vm-root.qcow2'];
const at = (activity: string, phase: KillPoint['phase']): KillPoint => ({ workflowId, activity, phase });

/** The restore that meets the fault, and what its disks have to hold. */
async function begin({ lab, vm }: Story) {
  const held = join(lab.directory, 'held');
  for (const key of ['root', 'data']) await vm.read(key, `${held}-${key}`);
  const directory = await targetDirectory(lab, 'out');
  const handle = await startRestore(lab, { vm: 'vm', target: { kind: 'files', directory } }, workflowId);
  return { directory, handle, held };
}

/** Kills a worker as it is about to write to a table that is held, or, once it may do that, to another one. */
async function killAtTable(lab: Lab, worker: WorkerProcess, held: HeldTable, later: string | undefined): Promise<void> {
  let next: HeldTable | undefined;
  try {
    await held.isWaitedFor();
    if (later !== undefined) {
      next = await holdTable(lab, later);
      await held.release();
      await next.isWaitedFor();
    }
    await worker.kill();
  } finally {
    await held.release();
    await next?.release();
  }
}

/** A restore for each phase of a host's step and one for a step in the database: one death meets all of them, each at its own point. */
function runs(hostStep: string, databaseStep?: string): KillPoint[] {
  const phases = ['before', 'during', 'after'] as const;
  const ofHost = phases.map((phase) => ({ workflowId: `${phase}-${hostStep}`, activity: hostStep, phase }));
  const ofDatabase = databaseStep && {
    ...{ workflowId: `after-${databaseStep}`, activity: databaseStep, phase: 'after' as const },
  };
  return ofDatabase ? [...ofHost, ofDatabase] : ofHost;
}

describe.concurrent('the worker of a restore is killed (SIGKILL)', () => {
  test.for([
    ['prepareRestore', 'lookUpRestore'],
    ['restoreDisk', 'acquireChainLease'],
    ['placeRestore'],
    ['cleanUpLease'],
  ] as const)('before, during and after %s: the next worker completes the same restore', ([hostStep, databaseStep]) => {
    const killPoint = runs(hostStep, databaseStep);
    return withStory(
      `restore, worker killed at ${hostStep}`,
      async ({ lab, vm, firstWorker, startWorker }) => {
        const held = join(lab.directory, 'held');
        for (const key of ['root', 'data']) await vm.read(key, `${held}-${key}`);
        const restores = await Promise.all(
          killPoint.map(async ({ workflowId }) => {
            const directory = await targetDirectory(lab, workflowId);
            // A disk at a time, so that those which wait to die leave copy slots to the others.
            const input = { vm: 'vm', target: { kind: 'files' as const, directory }, maxParallelDisks: 1 };
            return { directory, handle: await startRestore(lab, input, workflowId) };
          }),
        );
        const { activity, inTime } = await firstWorker.death();
        if (activity === 'restoreDisk') expect(inTime).toBe(true);
        for (const { directory } of restores) {
          // Nothing has its name before all are written.
          if (hostStep === 'restoreDisk')
            expect((await readdir(directory)).filter((name) => names.includes(name))).toEqual([]);
        }
        await startWorker();
        for (const { handle } of restores) {
          const { disks } = await handle.result();
          for (const disk of disks) await expectContent(disk, `${held}-${disk.key}`, join(lab.directory, 'raw'));
        }
        for (const { directory } of restores) await expectNoRestoreLeft(lab, directory, names);
      },
      { killPoint },
    );
  });

  test('in mid-write, and its workflow terminated: the next worker removes what was written before it polls', () =>
    withStory(
      'restore, killed and terminated',
      async (story) => {
        const { directory, handle } = await begin(story);
        await story.firstWorker.death();
        await handle.terminate('by the test');
        await story.startWorker();
        await expectNoRestoreLeft(story.lab, directory);
      },
      { killPoint: at('restoreDisk', 'during') },
    ));

  test('when all is written, and its workflow terminated: the next worker leaves all files or none', () =>
    withStory(
      'restore, killed as it is placed',
      async (story) => {
        const { directory, handle } = await begin(story);
        await story.firstWorker.death();
        await handle.terminate('by the test');
        await story.startWorker();
        const found = await readdir(directory);
        await expectNoRestoreLeft(story.lab, directory, found.length === 0 ? [] : names);
      },
      { killPoint: at('placeRestore', 'during') },
    ));
});

describe.concurrent('the worker of a restore that keeps what it replaces is killed (SIGKILL)', () => {
  test.for(['before the row of what is kept', 'after the new disk has its name, which no row tells'] as const)(
    '%s: the next worker completes it, and nothing that was replaced is lost or without a row',
    (moment) =>
      withStory(`kept disks, killed ${moment}`, async ({ lab, vm, firstWorker, startWorker }) => {
        const held = join(lab.directory, 'held');
        for (const key of ['root', 'data']) await vm.read(key, `${held}-${key}`);
        const directory = await targetDirectory(lab, 'out');
        for (const name of names) await writeFile(join(directory, name), `old ${name}`);
        const rows = await holdTable(lab, 'kept_disks');
        const target = { kind: 'files' as const, directory };
        const handle = await startRestore(lab, { vm: 'vm', target, overwrite: true, keepReplaced: '1h' }, workflowId);
        const later = moment === 'before the row of what is kept' ? undefined : 'restore_disks';
        await killAtTable(lab, firstWorker, rows, later);
        expect((await readdir(directory)).filter((name) => name.endsWith('.before'))).toHaveLength(later ? 1 : 0);
        await startWorker();
        const { disks, kept } = await handle.result();
        for (const disk of disks) await expectContent(disk, `${held}-${disk.key}`, join(lab.directory, 'raw'));
        expect(kept.map(({ path }) => basename(path))).toEqual(names);
        for (const { path, keptPath } of kept) expect(await readFile(keptPath, 'utf8')).toBe(`old ${basename(path)}`);
        expect(await keptNames(lab, directory)).toHaveLength(2);
        await expectNoRestoreLeft(lab, directory, names);
      }),
  );
});

describe.concurrent('the workflow of a restore ends without its clean-up', () => {
  test('terminated: the host removes what was written, and releases the lease', () =>
    withStory(
      'restore terminated',
      async (story) => {
        const claims = await holdClaims(story.lab);
        const { directory, handle } = await begin(story);
        await until('the disks to begin', async () => (await pendingSteps(handle, 'restoreDisk')) === 2);
        await handle.terminate('by the test');
        await claims.release();
        await story.untilCleanedUp();
        await until('the late attempts to end', async () => (await readdir(directory)).length === 0);
        await expectNoRestoreLeft(story.lab, directory);
      },
      fastReconcile,
    ));
});

describe.concurrent('the file system of a restore', () => {
  test('hangs: the restore says so within seconds, and one goes on to work once it answers', () =>
    withStory('restore to what hangs', async ({ lab }) => {
      const small = await makeSmallFileSystem(await targetDirectory(lab, 'small'), 'hanging', 32 * MiB);
      try {
        const directory = join(small.path, 'out');
        await mkdir(directory);
        const request = { vm: 'vm', target: { kind: 'files' as const, directory } };
        await small.freeze();
        const refusal = await refusalOf(lab, request);
        expect(refusal).toMatchObject({ type: 'TargetUnusable' });
        expect(refusal.message).toContain(`${directory} cannot be restored to`);
        expect(refusal.message).toContain('found that it hangs');
        await small.thaw();
        const { disks } = await restoreVM(lab, request);
        const written = disks.map(({ path }) => basename(path));
        await expectNoRestoreLeft(lab, directory, written);
      } finally {
        await small.thaw();
        await small.remove();
      }
    }));
});
