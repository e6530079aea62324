import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { startTemporalServer, type TemporalServer } from '../../src/embedded/temporal.js';
import { ownProcesses } from '../support/end-state.js';
import { createNamespace } from '../support/lab.js';
import { environmentOf, runProduct, startCommand } from './product.js';
import { withTemporal } from './own-temporal.js';
import { faultyId, withStory, type Story } from './story.js';

// Another Temporal server, or another namespace, knows none of our runs. Whoever asks it must not take them for ended.

/** All that a clean-up would end or remove, and that the backup still needs. */
async function stateOf({ lab }: Pick<Story, 'lab'>) {
  const rows = async (query: string) => (await lab.database.pool.query<object>(query)).rows;
  return {
    processes: (await ownProcesses(lab)).map(({ pid }) => pid).sort(),
    leases: await rows('select port, disk_id, pid from nbd_exports order by port'),
    jobs: await rows('select id, status, clean_up, run_id from backup_jobs order by started_at'),
    attempts: await rows('select id, status, attempt_path from backup_disks order by id'),
  };
}

const exportsOf = async ({ lab }: Story) =>
  (await ownProcesses(lab)).filter(({ program }) => program === 'qemu-nbd').map(({ pid }) => pid);

/** Starts the product with other settings while a backup copies: it refuses, and the backup completes as if nothing had been. */
async function expectRefusal(
  story: Story,
  settings: Record<string, string>,
  expected: { exitCode: number; code: string; parts: readonly string[] },
  argvs: readonly string[][] = [['worker']],
): Promise<void> {
  const handle = await story.startFaulty();
  await story.holdCopies();
  const before = await stateOf(story);
  for (const argv of argvs) {
    const { exitCode, stderr } = await startCommand([...argv, '--json'], { ...environmentOf(story.lab), ...settings })
      .ended;
    expect(exitCode, stderr).toBe(expected.exitCode);
    expect(stderr).toContain(`"code":"${expected.code}"`);
    for (const part of expected.parts) expect(stderr).toContain(part);
  }
  expect(await stateOf(story)).toEqual(before);
  story.vm.resume();
  await handle.result();
  await story.expectRecovered({ outcome: 'complete' });
}

const idOf = async ({ lab }: Story) => {
  const { rows } = await lab.database.pool.query<{ id: string }>('select namespace_id as id from installations');
  return rows[0]?.id ?? '';
};

/** A server of the row's own, next to the one that has the runs: the namespace has the same name, and another id. */
async function startFreshServer(story: Story): Promise<TemporalServer> {
  const directory = join(story.lab.directory, 'temporal');
  await mkdir(directory, { recursive: true });
  return startTemporalServer({
    ...{ cliPath: inject('temporalCLIPath'), dbFilename: join(directory, 'fresh.db'), searchAttributes: {} },
    namespace: story.lab.namespace,
  });
}

describe.concurrent('in the middle of a copy, a worker with the same database is started', () => {
  test('with a typo in TEMPORAL_NAMESPACE: it refuses to start, and the backup completes', () =>
    withStory('typo in namespace', (story) =>
      expectRefusal(
        story,
        { TEMPORAL_NAMESPACE: `${story.lab.namespace}x` },
        { exitCode: 8, code: 'NamespaceNotFound', parts: [`'${story.lab.namespace}x'`, story.lab.temporalAddress] },
      ),
    ));

  test('for another namespace that is there: it refuses to start in either role, and the backup completes', () =>
    withStory('another namespace', async (story) => {
      const other = await createNamespace(story.lab.temporalAddress, false);
      const parts = [`namespace '${story.lab.namespace}' (id ${await idOf(story)}`, `namespace '${other}'`];
      const argvs = [['worker', '--only', 'host'], ['worker', '--only', 'workflows'], ['setup'], ['reconcile']];
      await expectRefusal(story, { TEMPORAL_NAMESPACE: other }, { exitCode: 7, code: 'WrongNamespace', parts }, argvs);
    }));

  test('on a fresh Temporal server with a namespace of the same name: it refuses to start, and the backup completes', () =>
    withStory('fresh server', async (story) => {
      const fresh = await startFreshServer(story);
      try {
        const parts = [`answered at ${fresh.address}`, `--lost-namespace ${await idOf(story)}`];
        const expected = { exitCode: 7, code: 'WrongNamespace', parts };
        await expectRefusal(story, { TEMPORAL_ADDRESS: fresh.address }, expected);
      } finally {
        await fresh.stop();
      }
    }));
});

describe.concurrent('in the middle of a copy', () => {
  test('the namespace is given up for one on a fresh server: the old worker stops, the new one cleans up', () =>
    withStory(
      'namespace given up',
      async (story) => {
        const fresh = await startFreshServer(story);
        const { lab, firstWorker } = story;
        try {
          await story.startFaulty();
          await story.holdCopies();
          const env = { ...environmentOf(lab), TEMPORAL_ADDRESS: fresh.address };
          await runProduct(['reconcile', '--lost-namespace', await idOf(story), '--yes'], env);
          expect(await firstWorker.ended).toBe('exit code 1');
          story.vm.resume();
          await lab.useTemporal(fresh.address, lab.namespace);
          await story.startWorker();
          await story.untilCleanedUp();
          const { rows } = await lab.database.pool.query(`select error from backup_jobs where workflow_id = $1`, [
            faultyId,
          ]);
          expect(rows).toEqual([{ error: 'its workflow run ended without clean-up: its namespace was given up' }]);
          await story.expectRecovered({ outcome: 'failed' });
        } finally {
          await fresh.stop();
        }
      },
      { reconcileIntervalMs: 5_000 },
    ));

  test('the server is replaced by a fresh one at the same address: the worker stops, nothing is touched, and with the old data the backup completes', () =>
    withTemporal((servers, temporal) =>
      withStory(
        'server replaced',
        async (story) => {
          const handle = await story.startFaulty();
          await story.holdCopies();
          const { processes, ...rows } = await stateOf(story);
          const exports = await exportsOf(story);
          await temporal.stop();
          await temporal.startFresh(story.lab.namespace);
          expect(await story.firstWorker.ended).toBe('exit code 1');
          expect(await stateOf(story)).toMatchObject(rows);
          expect(processes).toEqual(expect.arrayContaining(exports));
          expect(await exportsOf(story)).toEqual(exports);
          await temporal.stop();
          await temporal.start();
          story.vm.resume();
          await story.startWorker();
          await handle.result();
          await story.expectRecovered({ outcome: 'complete' });
        },
        { servers, reconcileIntervalMs: 5_000 },
      ),
    ));
});
