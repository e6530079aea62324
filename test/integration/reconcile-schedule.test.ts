import { NativeConnection } from '@temporalio/worker';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { ensureReconcileSchedule } from '../../src/reconcile-schedule.js';
import { openInstallation } from '../../src/temporal-namespace.js';
import { watchInstallation, type Watched } from '../../src/worker-watch.js';
import { createLab, type Lab } from '../support/lab.js';
import { until } from '../support/until.js';

let lab: Lab;
let connection: NativeConnection;
beforeAll(async () => {
  const [templateDatabaseUrl, temporalAddress] = [inject('templateDatabaseUrl'), inject('temporalAddress')];
  lab = await createLab(
    'reconcile schedule',
    { templateDatabaseUrl, temporalAddress },
    { withSearchAttributes: false },
  );
  connection = await NativeConnection.connect({ address: temporalAddress });
});
afterAll(async () => {
  await connection.close();
  await lab.close();
});

const ensure = (host: string, intervalMs = 300_000) => ensureReconcileSchedule(lab.client, { host, intervalMs });
const describeSchedule = (id: string) => lab.client.schedule.getHandle(id).describe();
const updatesOf = async (id: string) => (await describeSchedule(id)).info.lastUpdatedAt;

describe('the schedule by which a host cleans up', () => {
  test('is made once, skips what would overlap, and is written again only when it differs', async () => {
    const id = await ensure('kvm1');
    expect(id).toBe('reconcile/kvm1');
    expect(await describeSchedule(id)).toMatchObject({
      spec: { intervals: [{ every: 300_000 }] },
      policies: { overlap: 'SKIP' },
      action: { workflowType: 'ReconcileHost', taskQueue: 'backupvm', args: [{ host: 'kvm1' }] },
    });
    await ensure('kvm1');
    expect(await updatesOf(id)).toBeUndefined();
    await ensure('kvm1', 60_000);
    const { spec, info } = await describeSchedule(id);
    expect(spec.intervals).toMatchObject([{ every: 60_000 }]);
    expect(info.lastUpdatedAt).toBeInstanceOf(Date);
    await ensure('kvm1', 60_000);
    expect(await updatesOf(id)).toEqual(info.lastUpdatedAt);
  });

  test('that a person paused stays paused, also when it is brought up to date', async () => {
    const id = await ensure('kvm2');
    await lab.client.schedule.getHandle(id).pause('moving disks');
    await ensure('kvm2');
    await ensure('kvm2', 60_000);
    const { state, spec } = await describeSchedule(id);
    expect(state).toMatchObject({ paused: true, note: 'moving disks' });
    expect(spec.intervals).toMatchObject([{ every: 60_000 }]);
  });

  test('is made by the worker of the host, and made again when it is gone', async () => {
    const { db } = lab.database;
    const namespace = await openInstallation(db, connection, { name: lab.namespace, address: lab.temporalAddress });
    const ending = new AbortController();
    const watched: Watched = { db, connection, namespace, host: 'kvm3' };
    const options = { log: pino({ level: 'silent' }), signal: ending.signal };
    const watch = watchInstallation(watched, { reconcileIntervalMs: 1_000 }, options);
    const isThere = () => describeSchedule('reconcile/kvm3').catch(() => undefined);
    try {
      await until('the schedule', isThere);
      await lab.client.schedule.getHandle('reconcile/kvm3').delete();
      await until('the schedule, again', isThere);
    } finally {
      ending.abort();
      await watch;
    }
  });
});
