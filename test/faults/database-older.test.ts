import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { mainQueue } from '../../src/workflows/messages.js';
import { filesBelow } from '../support/end-state.js';
import { copyTables, type CopiedTables } from '../support/older-database.js';
import { expectContent, expectNoRestoreLeft, startRestore, targetDirectory } from '../support/restores.js';
import { until } from '../support/until.js';
import { runCommand } from '../unit/cli/run-command.js';
import type { KillPoint } from './kill-point.js';
import { faultyId, withStory, type Story } from './story.js';

// A dump of Postgres that was restored, or a failover that lost the last commits: the database is older than the repository.

const at = (activity: string, phase: KillPoint['phase'], workflowId = faultyId): KillPoint => {
  return { workflowId, activity, phase };
};
const run = ({ lab }: Story, type: string, input: object, workflowId = type): Promise<unknown> =>
  lab.client.workflow.execute(type, { taskQueue: mainQueue, workflowId, args: [input] });

/** What a workflow of ours fails with. */
async function refusal(running: Promise<unknown>): Promise<{ type: string; message: string }> {
  return running.then(
    () => expect.fail('expected a refusal, found success'),
    (error: unknown) => (error as { cause: { type: string; message: string } }).cause,
  );
}

async function importRepository({ lab }: Story): Promise<{ imported: string[]; updated: string[]; gone: string[] }> {
  const environment = { DATABASE_URL: lab.database.url, BACKUPVM_HOST: lab.config.host };
  const command = ['repository', 'import', lab.repository.path, '--json'];
  const { exitCode, stdout, stderr } = await runCommand(command, environment);
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
  return JSON.parse(stdout) as { imported: string[]; updated: string[]; gone: string[] };
}

/** What lies there must stay as it is until the import. */
const sealedFiles = async ({ lab }: Story) =>
  (await filesBelow(lab.repository.path)).filter((path) => /^[^.].*\.(qcow2|hashes|json)$/.test(path));

async function jobStatus({ lab }: Story, jobId: string): Promise<string | undefined> {
  const { rows } = await lab.database.pool.query<{ status: string }>('select status from backup_jobs where id = $1', [
    jobId,
  ]);
  return rows[0]?.status;
}

/** The tables as they are now, put back while no worker runs; and one that starts then. */
async function putBack({ startWorker }: Story, worker: { kill: () => Promise<string> }, tables: CopiedTables) {
  await worker.kill();
  await tables.putBack();
  return startWorker();
}

describe.concurrent('the tables are put back', () => {
  test('to between recordChangeId and the seal, and one more point was sealed upon it: nothing sealed goes, import adopts both', () =>
    withStory(
      'tables of before a seal',
      async (story) => {
        const { startFaulty, startWorker, firstWorker, addPoint, expectRecovered } = story;
        const handle = await startFaulty();
        await firstWorker.death();
        const tables = await copyTables(story.lab.database.pool);
        const second = await startWorker();
        const { jobId } = await handle.result();
        const above = await addPoint();
        const before = await sealedFiles(story);

        const third = await putBack(story, second, tables);
        expect(await jobStatus(story, above)).toBeUndefined();
        const refused = await refusal(story.lab.backUp({ vm: 'vm' }, 'too-early'));
        expect(refused).toMatchObject({ type: 'RepositoryAhead' });
        expect(refused.message).toContain(`run 'backupvm repository import ${story.lab.repository.path}'`);
        expect(await sealedFiles(story)).toEqual(before);

        expect((await importRepository(story)).imported).toEqual([jobId, above]);
        await third.kill();
        await startWorker(); // cleans up what the job left, as after any run that ended
        await expectRecovered({ outcome: 'complete' });
      },
      { killPoint: at('sealRestorePoint', 'before') },
    ));

  test('to before a prune that merged: nothing is built upon it or removed, and import brings the record up to date', () =>
    withStory('tables of before a prune', async (story) => {
      const { lab, firstWorker, addPoint, expectRecovered } = story;
      const { rows } = await lab.database.pool.query<{ id: string }>('select id from backup_jobs');
      const deleted = rows.map(({ id }) => id);
      const [merged, kept] = [await addPoint(), await addPoint()];
      const tables = await copyTables(lab.database.pool);
      await run(story, 'PruneBackups', { vm: 'vm', policy: { keepLast: 2 } });
      const before = await sealedFiles(story);

      await putBack(story, firstWorker, tables);
      expect(await jobStatus(story, deleted[0] ?? '')).toBe('complete');
      const refusals = [
        await refusal(lab.backUp({ vm: 'vm' }, 'too-early')),
        await refusal(run(story, 'VerifyBackup', { vm: 'vm', all: true })),
        await refusal(run(story, 'DeleteBackup', { point: kept })),
      ];
      for (const refused of refusals) expect(refused).toMatchObject({ type: 'RepositoryAhead' });
      expect(await sealedFiles(story)).toEqual(before);

      expect(await importRepository(story)).toMatchObject({ imported: [], updated: [merged], gone: deleted });
      await run(story, 'DeleteBackup', { point: deleted[0] });
      expect(await run(story, 'VerifyBackup', { vm: 'vm', all: true, level: 'content' })).toMatchObject({
        damaged: false,
      });
      await expectRecovered({ outcome: 'none', deleted });
    }));

  test.for([
    ['writing', at('placeRestore', 'before')],
    ['placing', at('placeRestore', 'after')],
  ] as const)('to before a restore completed that was %s: its files stay, and its lease goes', ([phase, point]) => {
    const workflowId = 'restore-vm/vm';
    return withStory(
      `tables of a restore that was ${phase}`,
      async (story) => {
        const { lab, vm, firstWorker, startWorker, expectRecovered } = story;
        const held = join(lab.directory, 'held');
        for (const key of ['root', 'data']) await vm.read(key, `${held}-${key}`);
        const directory = await targetDirectory(lab, 'out');
        const handle = await startRestore(lab, { vm: 'vm', target: { kind: 'files', directory } }, workflowId);
        await firstWorker.death();
        const { rows } = await lab.database.pool.query<{ phase: string }>('select phase from restores');
        expect(rows).toEqual([{ phase }]);
        const tables = await copyTables(lab.database.pool);
        const second = await startWorker();
        const { disks } = await handle.result();

        await putBack(story, second, tables);
        await until('the lease to go', async () => {
          const { rowCount } = await lab.database.pool.query('select 1 from chain_leases');
          return rowCount === 0;
        });
        await expectNoRestoreLeft(lab, directory, await readdir(directory));
        for (const disk of disks) await expectContent(disk, `${held}-${disk.key}`, join(lab.directory, 'raw'));
        await expectRecovered({ outcome: 'none' });
      },
      { killPoint: { ...point, workflowId } },
    );
  });
});
