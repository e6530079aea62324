import { randomUUID } from 'node:crypto';
import { describe, expect } from 'vitest';
import { findOrCreateContext, listHeads } from '../../src/db/contexts.js';
import { liftDamage, markDamaged } from '../../src/db/damage.js';
import type { Database } from '../../src/db/database.js';
import { planDisks, recordAttempt, recordCopied, type BackupDisk } from '../../src/db/disks.js';
import { addHypervisor } from '../../src/db/hypervisors.js';
import { sealJob } from '../../src/db/jobs.js';
import { addRepository } from '../../src/db/repositories.js';
import { backupDisks } from '../../src/db/schema.js';
import { test } from '../support/database.js';
import { startJob } from '../support/job.js';

async function makeContext(db: Database): Promise<string> {
  const { id: hypervisorId } = await addHypervisor(db, { name: 'h', kind: 'qmp', uri: 'qmp:///h', host: 'h' });
  const { id: repositoryId } = await addRepository(db, { id: randomUUID(), name: 'r', host: 'h', path: '/r' });
  return (await findOrCreateContext(db, { hypervisorId, repositoryId, vmId: 'v', vmName: 'v' })).id;
}

/** A job that copies these disks, each upon a parent or as a full. */
async function beginCopies(db: Database, contextId: string, parents: Record<string, string | null>) {
  const job = await startJob(db, { contextId });
  const plans = Object.entries(parents).map(([key, parentId]) => ({
    ...({
      key,
      target: key,
      identity: key,
      sizeBytes: 1024,
      reason: 'requested',
      parentId,
      baseChangeId: null,
    } as const),
    type: parentId === null ? ('full' as const) : ('incremental' as const),
    path: `${key}/${job.id}.qcow2`,
  }));
  const disks = await planDisks(db, job, plans);
  for (const { id, path } of disks) {
    await recordAttempt(db, id, { attemptPath: `${path}.partial`, nbdPort: 10_809 });
    await recordCopied(db, id, { changedBytes: 1, writtenBytes: 1 });
  }
  const checksum = `sha256:${'0'.repeat(64)}`;
  const facts = { checksum, hashesChecksum: checksum, fileBytes: 1, fileModifiedMs: 1 };
  const seal = () =>
    sealJob(
      db,
      { id: job.id, snapshotId: undefined },
      disks.map(({ id }) => ({ diskId: id, ...facts })),
    );
  return { disks: Object.fromEntries(disks.map((disk) => [disk.diskKey, disk])), seal };
}

async function addPoint(db: Database, contextId: string, parents: Record<string, string | null>) {
  const { disks, seal } = await beginCopies(db, contextId, parents);
  await seal();
  return disks as Record<'root' | 'data', BackupDisk>;
}

/** Three points of two disks. */
async function threePoints(db: Database) {
  const contextId = await makeContext(db);
  const first = await addPoint(db, contextId, { root: null, data: null });
  const second = await addPoint(db, contextId, { root: first.root.id, data: first.data.id });
  const third = await addPoint(db, contextId, { root: second.root.id, data: second.data.id });
  const marks = async (key: 'root' | 'data') => {
    const rows = await db.select().from(backupDisks);
    return [first, second, third].map((point) => rows.find(({ id }) => id === point[key].id)?.damage ?? null);
  };
  return { contextId, first, second, third, marks };
}

describe('a mark', () => {
  test('of a file spreads to all that need it, to no other disk, and leaves what is known already', async ({ db }) => {
    const { first, second, third, marks } = await threePoints(db);
    await markDamaged(db, third.root, { damage: 'its own', spreads: true });
    await markDamaged(db, second.root, { damage: 'cut off', spreads: true });
    expect(await marks('root')).toEqual([null, 'cut off', 'its own']);
    await markDamaged(db, first.root, { damage: 'gone', spreads: true });
    await markDamaged(db, first.root, { damage: 'gone', spreads: true });
    expect(await marks('root')).toEqual(['gone', 'cut off', 'its own']);
    await liftDamage(db, [second.root.id, third.root.id]);
    await markDamaged(db, first.root, { damage: 'gone', spreads: true });
    const needs = `needs the damaged ${first.root.path}`;
    expect(await marks('root')).toEqual(['gone', needs, needs]);
    expect(await marks('data')).toEqual([null, null, null]);
  });

  test('of what lies beside a file stays where it is', async ({ db }) => {
    const { first, marks } = await threePoints(db);
    await markDamaged(db, first.data, { damage: 'manifest', spreads: false });
    expect(await marks('data')).toEqual(['manifest', null, null]);
  });

  test('of the head makes the next plan know of it, of this disk alone', async ({ db }) => {
    const { contextId, third } = await threePoints(db);
    await markDamaged(db, third.root, { damage: 'cut off', spreads: true });
    const heads = await listHeads(db, contextId);
    expect(Object.fromEntries(heads.map(({ diskKey, isDamaged }) => [diskKey, isDamaged]))).toEqual({
      root: true,
      data: false,
    });
  });

  test('that is found while a backup copies upon the disk is the new point’s, too', async ({ db }) => {
    const { contextId, third } = await threePoints(db);
    const { disks, seal } = await beginCopies(db, contextId, { root: third.root.id, data: third.data.id });
    await markDamaged(db, third.root, { damage: 'cut off', spreads: false }); // as if the row of the copy came after it
    await seal();
    const { rows } = await db.execute<{ id: string; damage: string | null }>('select id, damage from backup_disks');
    const damageOf = (id: string | undefined) => rows.find((row) => row.id === id)?.damage;
    expect(damageOf(disks['root']?.id)).toBe(`needs the damaged ${third.root.path}`);
    expect(damageOf(disks['data']?.id)).toBeNull();
  });
});
