import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, inject, vi } from 'vitest';
import { findOrphanedJobs, findOrphanedLeases, type ReconcileDependencies } from '../../src/activities/reconcile.js';
import { acquireChainLease } from '../../src/db/chain-leases.js';
import { findOrCreateContext } from '../../src/db/contexts.js';
import type { Database } from '../../src/db/database.js';
import { addHypervisor } from '../../src/db/hypervisors.js';
import { claimInstallation, findInstallation, giveUpNamespace } from '../../src/db/installations.js';
import { insertJob } from '../../src/db/jobs.js';
import { addRepository } from '../../src/db/repositories.js';
import type { Namespace } from '../../src/domain/namespace.js';
import { startJob } from '../support/job.js';
import { test, type TestDatabase } from '../support/database.js';
import { runCommand } from '../unit/cli/run-command.js';

const namespace = (name: string): Namespace => ({ id: randomUUID(), name, address: `${name}:7233` });
const [ours, theirs, third] = [namespace('ours'), namespace('theirs'), namespace('third')];
const refused = (...parts: string[]): object =>
  expect.objectContaining({
    code: 'WrongNamespace',
    message: expect.stringMatching(parts.join('.*')) as string,
  }) as object;

async function contextOf(db: Database, vm = 'web01'): Promise<string> {
  const host = 'h';
  const hypervisor = await addHypervisor(db, { name: vm, kind: 'qmp', uri: `qmp:///${vm}`, host });
  const repository = await addRepository(db, { id: randomUUID(), name: vm, host, path: `/${vm}` });
  const key = { hypervisorId: hypervisor.id, repositoryId: repository.id, vmId: vm, vmName: vm };
  return (await findOrCreateContext(db, key)).id;
}

const newLease = (contextId: string) => {
  const run = { workflowId: 'restore/web01', runId: randomUUID() };
  return { id: randomUUID(), contextId, mode: 'shared', purpose: 'restore', ...run } as const;
};

describe('a database', () => {
  test('belongs to the first namespace, again to the same one, and to no other, whatever its name', async ({ db }) => {
    await claimInstallation(db, ours);
    await claimInstallation(db, ours);
    const message = [
      `belongs to Temporal namespace 'ours' \\(id ${ours.id}`,
      `'theirs' \\(id ${theirs.id}\\) answered at theirs:7233`,
    ];
    await expect(claimInstallation(db, theirs)).rejects.toEqual(
      refused(...message, 'TEMPORAL_NAMESPACE', `--lost-namespace ${ours.id}`),
    );
    await expect(claimInstallation(db, { ...ours, id: theirs.id })).rejects.toEqual(refused());
    expect(await findInstallation(db)).toMatchObject({ namespaceId: ours.id, namespace: 'ours' });
  });

  test('that twenty namespaces claim at once belongs to one of them, and the others are refused', async ({ db }) => {
    const claims = await Promise.allSettled(
      Array.from({ length: 20 }, (_, index) => claimInstallation(db, namespace(`n${index}`))),
    );
    expect(claims.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  });

  test('takes no job and no lease of another namespace, also not when that one was its own before', async ({ db }) => {
    await claimInstallation(db, ours);
    const contextId = await contextOf(db);
    const start = (of: Namespace) =>
      insertJob(
        db,
        { id: randomUUID(), contextId, workflowId: 'backup-vm/web01', runId: randomUUID(), namespace: of },
        [],
      );
    await expect(start(theirs)).rejects.toEqual(refused());
    await expect(acquireChainLease(db, newLease(contextId), theirs)).rejects.toEqual(refused());
    await giveUpNamespace(db, { lostId: ours.id, givenUpBy: 'test' }, theirs);
    await expect(start(ours)).rejects.toEqual(refused());
    await expect(acquireChainLease(db, newLease(contextId), ours)).rejects.toEqual(refused());
    expect(await start(theirs)).toEqual({ outcome: 'inserted' });
  });

  test('does not take a live job for orphaned whose workflow has the same id in another namespace', async ({ db }) => {
    await claimInstallation(db, ours);
    const run = { contextId: await contextOf(db), workflowId: 'backup-vm/web01' };
    const { id } = await startJob(db, { ...run, namespace: ours });
    const again = (of: Namespace) =>
      insertJob(db, { id: randomUUID(), ...run, runId: randomUUID(), namespace: of }, []);
    expect(await again(ours)).toEqual({ outcome: 'orphaned', jobId: id });
    await giveUpNamespace(db, { lostId: ours.id, givenUpBy: 'test' }, theirs);
    await expect(again(theirs)).rejects.toMatchObject({
      code: 'BackupAlreadyRunning',
      message: expect.stringContaining(`of Temporal namespace ${ours.id}`) as string,
    });
  });
});

describe('clean-up', () => {
  /** What it is made with, as far as finding orphans goes. No run is known to any server. */
  const dependencies = (db: Database, of: Namespace, state = 'no longer known to the Temporal server') =>
    ({
      db,
      host: 'h',
      namespace: of,
      describeRun: async () => ({ isOpen: false, state }),
    }) as Partial<ReconcileDependencies> as ReconcileDependencies;

  async function leftRows(db: Database): Promise<{ jobId: string; leaseId: string }> {
    await claimInstallation(db, ours);
    const { id: jobId } = await startJob(db, { contextId: await contextOf(db), namespace: ours });
    const lease = newLease(await contextOf(db, 'web02'));
    await acquireChainLease(db, lease, ours);
    return { jobId, leaseId: lease.id };
  }

  test('asks only for rows of the namespace that answers; others are left alone until they are given up', async ({
    db,
  }) => {
    const { jobId, leaseId } = await leftRows(db);
    await db.execute(`update installations set namespace_id = '${theirs.id}'`); // as if by hand: nothing is given up
    const left = { leftBecause: expect.stringContaining(`another Temporal namespace, ${ours.id}`) as string };
    expect(await findOrphanedJobs(dependencies(db, theirs))).toEqual([expect.objectContaining({ jobId, ...left })]);
    expect(await findOrphanedLeases(dependencies(db, theirs))).toEqual([expect.objectContaining({ leaseId, ...left })]);

    expect(await giveUpNamespace(db, { lostId: ours.id, givenUpBy: 'test' }, theirs)).toMatchObject({
      jobs: 1,
      leases: 1,
    });
    const runState = 'its namespace was given up';
    const [job] = await findOrphanedJobs(dependencies(db, theirs));
    const [lease] = await findOrphanedLeases(dependencies(db, theirs));
    expect(job).toMatchObject({ jobId, runState });
    expect(lease).toMatchObject({ leaseId, runState });
    expect([job?.leftBecause, lease?.leftBecause]).toEqual([undefined, undefined]);
  });

  test('of a worker whose namespace was given up finds nothing to do', async ({ db }) => {
    await leftRows(db);
    await giveUpNamespace(db, { lostId: ours.id, givenUpBy: 'test' }, theirs);
    await expect(findOrphanedJobs(dependencies(db, ours))).rejects.toEqual(refused());
    await expect(findOrphanedLeases(dependencies(db, ours))).rejects.toEqual(refused());
  });

  test('leaves alone a job that says that it is not done although its run completed; a lease is judged by the files', async ({
    db,
  }) => {
    const { jobId, leaseId } = await leftRows(db);
    const left = { runState: 'completed', leftBecause: expect.stringContaining('older than the repository') as string };
    const found = dependencies(db, ours, 'completed');
    expect(await findOrphanedJobs(found)).toEqual([expect.objectContaining({ jobId, ...left })]);
    const [lease] = await findOrphanedLeases(found);
    expect(lease).toMatchObject({ leaseId, runState: 'completed' });
    expect(lease?.leftBecause).toBeUndefined();
  });

  test('that failed before comes after those that were not tried yet', async ({ db }) => {
    const { jobId: failed } = await leftRows(db);
    await db.execute(`update backup_jobs set clean_up_error = 'it hangs'`);
    const { id: untried } = await startJob(db, { contextId: await contextOf(db, 'web03'), namespace: ours });
    const orphans = await findOrphanedJobs(dependencies(db, ours));
    expect(orphans.map(({ jobId }) => jobId)).toEqual([untried, failed]);
  });
});

describe('backupvm reconcile --lost-namespace', () => {
  beforeAll(() => {
    vi.stubEnv('TEMPORAL_ADDRESS', inject('temporalAddress'));
    vi.stubEnv('TEMPORAL_NAMESPACE', inject('temporalNamespace'));
    vi.stubEnv('TEMPORAL_CONFIG_FILE', '/nonexistent.toml');
  });
  afterAll(() => void vi.unstubAllEnvs());
  const lose = (database: TestDatabase, ...argv: string[]) =>
    runCommand(['reconcile', '--lost-namespace', ...argv, '--json'], { DATABASE_URL: database.url });

  test('says what it would end, and does it with --yes; a second time there is nothing to give up', async ({
    database,
    db,
  }) => {
    await claimInstallation(db, ours);
    await startJob(db, { contextId: await contextOf(db), namespace: ours });
    const asked = await lose(database, ours.id);
    expect(asked.exitCode).toBe(2);
    expect(asked.stderr).toContain(
      `this would end 1 backup(s) and 0 other operation(s) of Temporal namespace ${ours.id}`,
    );
    expect(await findInstallation(db)).toMatchObject({ namespaceId: ours.id });

    const { exitCode, stdout } = await lose(database, ours.id, '--yes');
    expect(exitCode).toBe(0);
    const { namespaceId } = JSON.parse(stdout) as { namespaceId: string };
    expect(await findInstallation(db)).toMatchObject({ namespaceId, namespace: inject('temporalNamespace') });
    expect((await lose(database, namespaceId, '--yes')).stderr).toContain('which answers at');
  });

  test('refuses an id that the database does not know, and to answer for a third namespace', async ({
    database,
    db,
  }) => {
    await claimInstallation(db, ours);
    expect(await lose(database, third.id, '--yes')).toMatchObject({ exitCode: 2, stdout: '' });
    await startJob(db, { contextId: await contextOf(db), namespace: ours });
    await db.execute(`update installations set namespace_id = '${theirs.id}'`);
    const { exitCode, stderr } = await lose(database, ours.id, '--yes');
    expect(exitCode).toBe(7); // the namespace of the tests is neither the one that was lost nor the installation's
    expect(stderr).toContain(`--lost-namespace ${theirs.id}`);
    expect(await findInstallation(db)).toMatchObject({ namespaceId: theirs.id });
  });

  test('is what reconcile asks for where another namespace answers', async ({ database, db }) => {
    await claimInstallation(db, ours);
    const { exitCode, stderr } = await runCommand(['reconcile'], { DATABASE_URL: database.url });
    expect(exitCode).toBe(7);
    expect(stderr).toContain(`run 'backupvm reconcile --lost-namespace ${ours.id}'`);
  });
});
