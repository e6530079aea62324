import type { Lab } from './lab.js';
import { until } from './until.js';

export interface HeldTable {
  /** Waits until somebody is about to write to it. */
  isWaitedFor: () => Promise<void>;
  /** May run twice. */
  release: () => Promise<void>;
}

/** Holds back whoever is about to write to a table; who reads goes on. */
export async function holdTable({ database }: Pick<Lab, 'database'>, table: string): Promise<HeldTable> {
  let isReleased = false;
  const connection = await database.pool.connect();
  await connection.query('begin');
  await connection.query(`lock table ${table} in share mode`);
  // Of this database only: the databases of other tests are copies, in which the table has the same id.
  const waiting = `select 1 from pg_locks join pg_database on pg_database.oid = database
    where not granted and datname = current_database() and relation = '${table}'::regclass`;
  return {
    isWaitedFor: async () => {
      await until(
        `somebody to wait for ${table}`,
        async () => (await connection.query(waiting)).rows.length > 0,
        60_000,
      );
    },
    release: async () => {
      if (isReleased) return;
      isReleased = true;
      await connection.query('rollback');
      connection.release();
    },
  };
}
