import { randomUUID } from 'node:crypto';
import { describe, expect } from 'vitest';
import { findOrCreateContext } from '../../src/db/contexts.js';
import type { Database } from '../../src/db/database.js';
import { planDisks, recordAttempt, recordCopied } from '../../src/db/disks.js';
import { leasePort } from '../../src/db/exports.js';
import { addHypervisor, removeHypervisor } from '../../src/db/hypervisors.js';
import { abortUnlessSealed, closeJob, sealJob } from '../../src/db/jobs.js';
import { beginSnapshot, isForsaken, recordSnapshot } from '../../src/db/snapshots.js';
import { addRepository } from '../../src/db/repositories.js';
import { startJob } from '../support/job.js';
import { test } from '../support/database.js';

interface Chain {
  contextId: string;
  /** Job ids, from the full on. */
  jobs: string[];
}

/** A context with a sealed full and two sealed incrementals of one disk. */
async function chainOfThree(db: Database, name: string): Promise<Chain> {
  const hypervisor = await addHypervisor(db, { name, kind: 'qmp', uri: `qmp:///${name}`, host: 'h' });
  const repository = await addRepository(db, { id: randomUUID(), name, host: 'h', path: `/${name}` });
  const context = await findOrCreateContext(db, {
    hypervisorId: hypervisor.id,
    repositoryId: repository.id,
    vmId: name,
    vmName: name,
  });
  const jobs: string[] = [];
  let parentId: string | null = null;
  for (let index = 0; index < 3; index += 1) parentId = await sealedPoint(db, context.id, jobs, parentId);
  return { contextId: context.id, jobs };
}

async function sealedPoint(db: Database, contextId: string, jobs: string[], parentId: string | null): Promise<string> {
  const job = await startJob(db, { contextId });
  const type = parentId === null ? 'full' : 'incremental';
  const plan = {
    key: 'root',
    target: 'vda',
    identity: 'a',
    sizeBytes: 1024,
    type,
    reason: 'requested',
    parentId,
    baseChangeId: null,
  } as const;
  const [disk] = await planDisks(db, job, [{ ...plan, path: `${job.id}.qcow2` }]);
  if (!disk) throw new Error('no disk');
  await recordAttempt(db, disk.id, { attemptPath: `${job.id}.partial`, nbdPort: 10_001 });
  await recordCopied(db, disk.id, { changedBytes: 1, writtenBytes: 1 });
  await sealJob(db, { id: job.id, snapshotId: undefined }, [
    { diskId: disk.id, checksum: 'sha256:00', hashesChecksum: 'sha256:00', fileBytes: 1, fileModifiedMs: 1 },
  ]);
  jobs.push(job.id);
  return disk.id;
}

describe('foreign keys', () => {
  test('deleting a context takes its jobs, disks and leases with it, and leaves those of others', async ({
    db,
    pool,
  }) => {
    const one = await chainOfThree(db, 'one');
    const other = await chainOfThree(db, 'other');
    const job = await startJob(db, { contextId: one.contextId });
    const plan = {
      key: 'root',
      target: 'vda',
      identity: 'a',
      sizeBytes: 1,
      type: 'full',
      reason: 'requested',
      parentId: null,
      baseChangeId: null,
    } as const;
    const [disk] = await planDisks(db, job, [{ ...plan, path: 'p' }]);
    await leasePort(db, {
      host: 'h',
      firstPort: 2000,
      lastPort: 2000,
      avoidPorts: [],
      jobId: job.id,
      diskId: disk?.id ?? '',
      exportName: 'e',
    });

    await pool.query('delete from vm_backup_contexts where id = $1', [one.contextId]);
    const left = async (table: string, column: string) =>
      (await pool.query<{ id: string }>(`select ${column} as id from ${table}`)).rows.map(({ id }) => id);
    expect(new Set(await left('backup_jobs', 'id'))).toEqual(new Set(other.jobs));
    expect(new Set(await left('backup_disks', 'context_id'))).toEqual(new Set([other.contextId]));
    expect(await left('nbd_exports', 'job_id')).toEqual([]);
  });

  test('deleting a job takes its disks with it, unless another restore point needs them', async ({ db, pool }) => {
    const { jobs } = await chainOfThree(db, 'one');
    await expect(pool.query('delete from backup_jobs where id = $1', [jobs[0]])).rejects.toMatchObject({
      constraint: 'backup_disks_parent',
    });
    await pool.query('delete from backup_jobs where id = $1', [jobs[2]]);
    const { rows } = await pool.query('select 1 from backup_disks');
    expect(rows).toHaveLength(2);
  });

  test('a repository or hypervisor with backups stays', async ({ db, pool }) => {
    await chainOfThree(db, 'one');
    await expect(pool.query(`delete from repositories where name = 'one'`)).rejects.toMatchObject({ code: '23001' });
    await expect(removeHypervisor(db, 'one')).rejects.toMatchObject({ code: 'InUse' });
  });

  test('a disk cannot belong to a job of another context', async ({ db, pool }) => {
    const one = await chainOfThree(db, 'one');
    const other = await chainOfThree(db, 'other');
    const move = pool.query('update backup_disks set context_id = $1, is_head = false where job_id = $2', [
      other.contextId,
      one.jobs[2],
    ]);
    await expect(move).rejects.toMatchObject({ code: '23503' });
  });
});

describe('the seal', () => {
  test('moves the head of the chain, and there is only one', async ({ db, pool }) => {
    const { jobs } = await chainOfThree(db, 'one');
    const { rows } = await pool.query('select job_id from backup_disks where is_head');
    expect(rows).toEqual([{ job_id: jobs[2] }]);
  });

  test('is refused once another snapshot was begun: the change ids would be of another moment than the files', async ({
    db,
    pool,
  }) => {
    const { contextId } = await chainOfThree(db, 'one');
    const job = await startJob(db, { contextId });
    const first = randomUUID();
    const plan = {
      ...({ key: 'root', target: 'vda', identity: 'a', sizeBytes: 1024, type: 'full', reason: 'requested' } as const),
      ...{ parentId: null, baseChangeId: null, path: 'p' },
    };
    const begun = await beginSnapshot(db, job, first, [plan]);
    const [disk] = begun?.disks ?? [];
    if (!disk) throw new Error('no disk');
    const opened = {
      sourceUri: 'nbd://s',
      dirtyContext: null,
      changeId: 'c1',
      identity: 'a',
      sizeBytes: 1024,
      wasEncrypted: false,
    } as const;
    const row = { id: disk.id, type: 'full', reason: 'requested', parentId: null, ...opened } as const;
    const values = { consistency: 'crash', vmConfig: null, warnings: [] } as const;
    const record = (snapshotId: string) =>
      recordSnapshot(db, { jobId: job.id, snapshotId }, { ...values, warnings: [] }, [row]);
    expect(await record(first)).toBe(true);
    await recordAttempt(db, disk.id, { attemptPath: 'p.partial', nbdPort: 10_001 });
    await recordCopied(db, disk.id, { changedBytes: 1, writtenBytes: 1 });

    const second = randomUUID();
    expect(await beginSnapshot(db, job, second, [plan])).toMatchObject({ earlierIds: [first] });
    const facts = { checksum: 'sha256:00', hashesChecksum: 'sha256:00', fileBytes: 1, fileModifiedMs: 1 };
    await expect(sealJob(db, { id: job.id, snapshotId: first }, [{ diskId: disk.id, ...facts }])).rejects.toThrow(
      /found another one open/,
    );
    expect(await record(first)).toBe(false);
    const { rows } = await pool.query<object>('select status, change_id from backup_disks where id = $1', [disk.id]);
    expect(rows).toEqual([{ status: 'planned', change_id: null }]);
    expect([await isForsaken(db, first), await isForsaken(db, second)]).toEqual([true, false]);

    await closeJob(db, job.id, 'failed', 'late');
    expect(await isForsaken(db, second)).toBe(true);
    expect(await isForsaken(db, randomUUID())).toBe(false); // not one of ours
    expect(await beginSnapshot(db, job, randomUUID(), [])).toBeUndefined();
  });

  test('is refused for a job that is being cleaned up, and a sealed job stays sealed', async ({ db, pool }) => {
    const { contextId, jobs } = await chainOfThree(db, 'one');
    const late = await startJob(db, { contextId });
    expect(await abortUnlessSealed(db, late.id)).toBe('aborting');
    await expect(sealJob(db, { id: late.id, snapshotId: undefined }, [])).rejects.toThrow(/found it aborting/);
    await closeJob(db, late.id, 'failed', 'late');

    expect(await abortUnlessSealed(db, jobs[2] ?? '')).toBe('sealed');
    await closeJob(db, jobs[2] ?? '', 'failed', 'late');
    const { rows } = await pool.query(
      `select status, count(*)::int as count from backup_jobs group by status order by status`,
    );
    expect(rows).toEqual([
      { status: 'complete', count: 3 },
      { status: 'failed', count: 1 },
    ]);
  });

  test('one running job per context, also while it is being cleaned up', async ({ db }) => {
    const { contextId } = await chainOfThree(db, 'one');
    const insert = () => startJob(db, { contextId });
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, insert));
    const [running] = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    await abortUnlessSealed(db, running?.id ?? '');
    await expect(insert()).rejects.toMatchObject({ code: 'BackupAlreadyRunning' });
    await closeJob(db, running?.id ?? '', 'cancelled', 'x');
    const next = await insert();
    expect(next.pointTime.getTime()).toBeGreaterThan(running?.pointTime.getTime() ?? 0);
  });
});
