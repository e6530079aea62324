import { randomUUID } from 'node:crypto';
import { describe, expect } from 'vitest';
import { findOrCreateContext } from '../../src/db/contexts.js';
import { planDisks } from '../../src/db/disks.js';
import { findExport, leasePort, releasePort } from '../../src/db/exports.js';
import { closeJob } from '../../src/db/jobs.js';
import { addHypervisor } from '../../src/db/hypervisors.js';
import { addRepository } from '../../src/db/repositories.js';
import type { Database } from '../../src/db/database.js';
import { startJob } from '../support/job.js';
import { test } from '../support/database.js';

/** A running job with this many planned disks, of a VM of this name. */
async function jobWithDisks(db: Database, vm: string, count: number) {
  const hypervisor = await addHypervisor(db, { name: vm, kind: 'qmp', uri: `qmp:///${vm}`, host: 'h' });
  const repository = await addRepository(db, { id: randomUUID(), name: vm, host: 'h', path: `/${vm}` });
  const context = await findOrCreateContext(db, {
    hypervisorId: hypervisor.id,
    repositoryId: repository.id,
    vmId: vm,
    vmName: vm,
  });
  const job = await startJob(db, { contextId: context.id, workflowId: vm });
  const disks = await planDisks(
    db,
    job,
    Array.from({ length: count }, (_, index) => ({
      key: `disk${index}`,
      target: `disk${index}`,
      identity: `image${index}`,
      sizeBytes: 1024,
      type: 'full',
      reason: 'first_backup',
      parentId: null,
      baseChangeId: null,
      path: `${vm}/disk${index}.qcow2`,
    })),
  );
  return { job, disks };
}

const request = (jobId: string, diskId: string, lastPort: number, avoidPorts: number[] = []) => ({
  host: 'h',
  firstPort: 10_001,
  lastPort,
  avoidPorts,
  jobId,
  diskId,
  exportName: diskId,
});

describe('port leases', () => {
  test('1,000 taken at the same time are 1,000 different ports, the lowest ones', async ({ db }) => {
    const { job, disks } = await jobWithDisks(db, 'many', 1_000);
    const ports = await Promise.all(disks.map(({ id }) => leasePort(db, request(job.id, id, 12_000))));
    expect(ports.toSorted((a, b) => Number(a) - Number(b))).toEqual(
      Array.from({ length: 1_000 }, (_, index) => 10_001 + index),
    );
  });

  test('a disk that asks again gets its own port, also when it asks twice at once', async ({ db }) => {
    const { job, disks } = await jobWithDisks(db, 'again', 1);
    const ask = () => leasePort(db, request(job.id, disks[0]?.id ?? '', 10_100));
    const ports = await Promise.all([ask(), ask(), ask()]);
    expect(new Set(ports)).toEqual(new Set([10_001]));
  });

  test('an exhausted range gives none, and a port that is given back is leased again', async ({ db }) => {
    const { job, disks } = await jobWithDisks(db, 'few', 2);
    const [first, second] = disks.map(({ id }) => id);
    expect(await leasePort(db, request(job.id, first ?? '', 10_001))).toBe(10_001);
    expect(await leasePort(db, request(job.id, second ?? '', 10_001))).toBeNull();
    const lease = await findExport(db, first ?? '');
    if (lease) await releasePort(db, lease);
    expect(await leasePort(db, request(job.id, second ?? '', 10_001))).toBe(10_001);
  });

  test('a port to avoid is exchanged for another', async ({ db }) => {
    const { job, disks } = await jobWithDisks(db, 'avoid', 1);
    const id = disks[0]?.id ?? '';
    expect(await leasePort(db, request(job.id, id, 10_100))).toBe(10_001);
    expect(await leasePort(db, request(job.id, id, 10_100, [10_001]))).toBe(10_002);
    expect(await leasePort(db, request(job.id, id, 10_100, [10_001, 10_002]))).toBe(10_003);
  });

  test('are not leased for a job that has ended: nobody would give them back', async ({ db }) => {
    const { job, disks } = await jobWithDisks(db, 'ended', 1);
    await closeJob(db, job.id, 'failed', 'it was killed');
    await expect(leasePort(db, request(job.id, disks[0]?.id ?? '', 10_100))).rejects.toMatchObject({
      code: 'JobNotFound',
    });
    expect(await findExport(db, disks[0]?.id ?? '')).toBeUndefined();
  });

  test('whoever is frozen with the lock on all ports loses it: Postgres ends its transaction', async ({ pool }) => {
    const { rows } = await pool.query<object>('show idle_in_transaction_session_timeout');
    expect(rows).toEqual([{ idle_in_transaction_session_timeout: '30s' }]);
  });

  test('a late release does not take the port from the disk that has it now', async ({ db }) => {
    const { job, disks } = await jobWithDisks(db, 'late', 2);
    const [first, second] = disks.map(({ id }) => id);
    await leasePort(db, request(job.id, first ?? '', 10_001));
    const stale = await findExport(db, first ?? '');
    if (!stale) throw new Error('no lease');
    await releasePort(db, stale);
    await leasePort(db, request(job.id, second ?? '', 10_001));
    await releasePort(db, stale);
    expect((await findExport(db, second ?? ''))?.port).toBe(10_001);
  });
});
