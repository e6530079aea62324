import { describe, expect, inject, test } from 'vitest';
import { createLab, type Lab } from '../support/lab.js';
import { pathWithHeldCopies } from './held-copies.js';
import { environmentOf, runProduct, startCommand, startDev, untilStarted } from './product.js';
import { beginStory, untilCopiesEnded } from './story.js';

// The product as a user starts it, and nothing else: no step of it is called for it.

/** A workflow is terminated in the middle of its copies: the host cleans up, and the next backup is an incremental. */
async function tellOfTermination(lab: Lab): Promise<void> {
  const story = await beginStory(lab);
  const handle = await story.startFaulty();
  await story.holdCopies();
  await handle.terminate('by the test');
  await untilCopiesEnded(lab);
  story.vm.resume();
  await story.untilCleanedUp();
  await story.expectRecovered({ outcome: 'failed' });
}

describe.concurrent('a workflow is terminated in the middle of a copy, and nobody calls for a clean-up', () => {
  test('in backupvm dev: it cleans up by itself', async () => {
    const { lab, stop } = await startDev();
    try {
      await tellOfTermination(lab);
    } finally {
      await stop();
      await lab.close();
    }
  });

  test('on a host that was added after setup: it cleans up by itself', async () => {
    const servers = {
      templateDatabaseUrl: inject('templateDatabaseUrl'),
      temporalAddress: inject('temporalAddress'),
    };
    const lab = await createLab('added host', servers, { reconcileIntervalMs: 5_000 });
    const env = { ...environmentOf(lab), PATH: await pathWithHeldCopies(lab.directory) };
    const first = { ...env, BACKUPVM_HOST: 'first-host' };
    const { rows } = await lab.database.pool.query<{ uri: string }>(`select uri from hypervisors`);
    await lab.database.pool.query(`delete from hypervisors; delete from repositories`); // the host is not known yet
    await runProduct(['setup'], first);
    const workers = [startCommand(['worker'], first)];
    try {
      workers.push(startCommand(['worker', '--only', 'host'], env));
      await runProduct(['hypervisor', 'add', 'lab', '--kind', 'qmp', '--uri', rows[0]?.uri ?? ''], env);
      await runProduct(['repository', 'add', 'store', '--path', lab.repository.path], env); // it has its marker
      await Promise.all(workers.map(untilStarted));
      await tellOfTermination(lab);
      expect(await schedulesOf(lab)).toEqual(['reconcile/first-host', 'reconcile/test-host']);
    } finally {
      await Promise.all(workers.map((worker) => worker.stop()));
      await lab.close();
    }
  });
});

async function schedulesOf({ client }: Lab): Promise<string[]> {
  const ids: string[] = [];
  for await (const { scheduleId } of client.schedule.list()) ids.push(scheduleId);
  return ids.sort();
}
