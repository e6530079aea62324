import { setTimeout as wait } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import { describe, expect, inject, test } from 'vitest';
import { openDatabase } from '../../src/db/database.js';
import { migrateDatabase } from '../../src/db/migrate.js';
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js';
import { copyDatabase } from '../support/template-database.js';
import { freePorts } from '../support/ports.js';
import type { Servers } from '../support/lab.js';
import { ownProcesses } from '../support/end-state.js';
import { inDirectory, withTemporal, type Stoppable } from './own-temporal.js';
import { withStory, type Story } from './story.js';

/** The length of the outage: the fault table's own. */
const outageMs = 20_000;

/** A Postgres of this row's own, on a port that stays. */
async function withPostgres(work: (servers: Servers, postgres: Stoppable) => Promise<void>): Promise<void> {
  await inDirectory(async (dataDir) => {
    const { first: port } = await freePorts(1);
    let running = await startEmbeddedPostgres({ dataDir, port, durable: true });
    const { url } = running;
    try {
      const opened = openDatabase({ connectionString: url }, () => undefined);
      await migrateDatabase(opened.pool);
      await opened.close();
      const start = async () => void (running = await startEmbeddedPostgres({ dataDir, port, durable: true }));
      const servers = { templateDatabaseUrl: url, temporalAddress: inject('temporalAddress') };
      await work(servers, { stop: () => running.stop(), start });
    } finally {
      await running.stop();
    }
  });
}

const exportsOf = async ({ lab }: Story) =>
  (await ownProcesses(lab)).filter(({ program }) => program === 'qemu-nbd').map(({ pid }) => pid);

/** The copies that ran before the outage are the ones that complete. */
async function tellOfOutage(story: Story, server: Stoppable): Promise<void> {
  const handle = await story.startFaulty();
  await story.holdCopies();
  const before = await exportsOf(story);
  await server.stop();
  await wait(outageMs);
  await server.start();
  expect(await exportsOf(story)).toEqual(before);
  story.vm.resume();
  await handle.result();
  await story.expectRecovered({ outcome: 'complete' });
}

describe.concurrent('in the middle of a copy, for 20 s', () => {
  test('Postgres is away: the copies go on, and the backup completes', () =>
    withPostgres((servers, postgres) =>
      withStory('Postgres stopped', (story) => tellOfOutage(story, postgres), { servers }),
    ));

  test('the Temporal server is away: the copies go on, and the backup completes', () =>
    withTemporal((servers, temporal) =>
      withStory('Temporal stopped', (story) => tellOfOutage(story, temporal), { servers }),
    ));
});

test('Postgres cuts a connection in the middle of a transaction: that transaction fails, and not the whole process', async () => {
  const database = await copyDatabase(inject('templateDatabaseUrl'), 'cut connection');
  try {
    const cut = database.db.transaction(async (tx) => {
      const { rows } = await tx.execute<{ pid: number }>(sql`select pg_backend_pid() as pid`);
      await database.pool.query('select pg_terminate_backend($1)', [rows[0]?.pid]);
      for (;;) await tx.execute(sql`select 1`);
    });
    await expect(cut).rejects.toThrow();
  } finally {
    await database.drop();
  }
});
