import { randomUUID } from 'node:crypto';
import { describe, expect, test, vi } from 'vitest';
import { createDeletionPlanActivities } from '../../src/activities/deletion-plan.js';
import { lookUpPlan, tombstonePoints } from '../../src/db/deletions.js';
import { listPoints } from '../../src/db/points.js';
import {
  changeHold,
  extendPointImmutability,
  extendRepositoryImmutability,
  listProtectionChanges,
} from '../../src/db/protection.js';
import { useThreePoints } from '../support/three-points.js';
import { until } from '../support/until.js';

const author = { changedBy: 'tester@here', reason: 'a test' };
const tomorrow = () => new Date(Date.now() + 86_400_000);
const points = useThreePoints('protection');

describe('a protected restore point', () => {
  const [first, second, third] = [0, 1, 2] as const;
  test.each([
    ['a hold keeps the point', second, [second], 'delete'],
    ['a hold keeps what the point needs', third, [first], 'merge'],
    ['a hold keeps what the point needs, also where both would go', third, [first], 'delete'],
    ['a hold keeps the whole context', first, null, 'delete'],
  ] as const)('%s', async (_what, held, chosen, descendants) => {
    await changeHold(points.database.db, points.jobIds[held], 'audit', author);
    const ids = chosen && chosen.map((index) => points.jobIds[index]);
    await expect(points.begin(ids, descendants)).rejects.toMatchObject({
      code: 'Protected',
      message: expect.stringContaining('is held: audit') as string,
    });
    await points.expectUntouched();
  });

  test('a hold does not keep what needs the point', async () => {
    await changeHold(points.database.db, points.jobIds[1], 'audit', author);
    await points.finish(await points.begin([points.jobIds[2]]));
    expect(await listPoints(points.database.db, points.chains.context.id)).toHaveLength(2);
  });

  test('a dry run says so, too', async () => {
    await changeHold(points.database.db, points.jobIds[0], 'audit', author);
    const activities = createDeletionPlanActivities({ db: points.database.db });
    const input = { contextId: points.chains.context.id, jobIds: [points.jobIds[0]], descendants: 'merge' as const };
    await expect(activities.previewDeletion(input)).rejects.toMatchObject({ code: 'Protected' });
  });

  test('one that is immutable stays until then, and its end can be put off and never brought forward', async () => {
    const until = tomorrow();
    await extendPointImmutability(points.database.db, points.jobIds[2], until, author);
    await expect(points.begin([points.jobIds[0]], 'merge')).rejects.toMatchObject({ code: 'Protected' });
    const sooner = new Date(until.getTime() - 1000);
    const shorten = extendPointImmutability(points.database.db, points.jobIds[2], sooner, author);
    await expect(shorten).rejects.toMatchObject({ code: 'Protected' });
    const past = extendPointImmutability(points.database.db, points.jobIds[0], new Date(0), author);
    await expect(past).rejects.toMatchObject({ code: 'InvalidInput' });
    await points.expectUntouched();
    await points.database.pool.query(
      `update backup_jobs set immutable_until = now() - interval '1 second' where id = $1`,
      [points.jobIds[2]],
    );
    await points.finish(await points.begin([points.jobIds[0]], 'merge'));
  });

  test('one that is immutable stays also where the clock of this machine is days fast: Postgres tells the time', async () => {
    await extendPointImmutability(points.database.db, points.jobIds[2], tomorrow(), author);
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 3 * 86_400_000 });
    try {
      await expect(points.begin([points.jobIds[0]], 'merge')).rejects.toMatchObject({ code: 'Protected' });
      await points.expectUntouched();
    } finally {
      vi.useRealTimers();
    }
  });

  test('all of them in a repository that is immutable', async () => {
    const { repositoryId } = points.chains.context;
    await extendRepositoryImmutability(points.database.db, repositoryId, tomorrow(), author);
    for (const [ids, descendants] of [
      [[points.jobIds[2]], 'refuse'],
      [null, 'refuse'],
      [[points.jobIds[0]], 'merge'],
    ] as const) {
      await expect(points.begin(ids && [...ids], descendants)).rejects.toMatchObject({ code: 'Protected' });
    }
    const shorten = extendRepositoryImmutability(points.database.db, repositoryId, new Date(Date.now() + 1000), author);
    await expect(shorten).rejects.toMatchObject({ code: 'Protected' });
    await points.expectUntouched();
  });

  test('a hold that comes after the look and before the tombstone wins', async () => {
    const { db } = points.database;
    const leaseId = await points.chains.takeLease();
    const request = { contextId: points.chains.context.id, jobIds: [points.jobIds[0]], descendants: 'merge' as const };
    const plan = await lookUpPlan(db, request);
    const client = await points.database.pool.connect();
    try {
      await client.query('begin');
      await client.query(`update backup_jobs set hold = 'just in time' where id = $1`, [points.jobIds[2]]);
      const deletion = tombstonePoints(db, { id: leaseId, contextId: request.contextId, deletesContext: false }, plan);
      const refused = expect(deletion).rejects.toMatchObject({ code: 'Protected' });
      await until('the deletion to wait for the lock', async () => {
        const { rows } = await points.database.pool.query(
          `select 1 from pg_stat_activity where wait_event_type = 'Lock'`,
        );
        return rows.length > 0;
      });
      await client.query('commit');
      await refused;
    } finally {
      client.release();
    }
    await points.expectUntouched();
    expect(await points.finish(leaseId)).toEqual({ warnings: [] });
  });

  test('one that is being deleted cannot be held any more', async () => {
    const leaseId = await points.begin([points.jobIds[2]]);
    const late = changeHold(points.database.db, points.jobIds[2], 'too late', author);
    await expect(late).rejects.toMatchObject({ code: 'PointNotFound' });
    await points.finish(leaseId);
  });

  test('every change is recorded, lifting included', async () => {
    const [jobId] = points.jobIds;
    await changeHold(points.database.db, jobId, 'audit', author);
    await changeHold(points.database.db, jobId, null, { ...author, reason: 'audit is done' });
    const again = changeHold(points.database.db, jobId, null, author);
    await expect(again).rejects.toMatchObject({ code: 'InvalidInput' });
    const until = tomorrow();
    await extendPointImmutability(points.database.db, jobId, until, author);
    const changes = await listProtectionChanges(points.database.db, { jobId, repositoryId: randomUUID() });
    expect(changes.map(({ kind, before, after, reason }) => ({ kind, before, after, reason }))).toEqual([
      { kind: 'immutable_until', before: null, after: until.toISOString(), reason: 'a test' },
      { kind: 'release', before: 'audit', after: null, reason: 'audit is done' },
      { kind: 'hold', before: null, after: 'audit', reason: 'a test' },
    ]);
  });
});
