import { sql } from 'drizzle-orm';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { BackupError } from '../domain/errors.js';
import * as schema from './schema.js';

export type Database = NodePgDatabase<typeof schema>;
/** A database or a transaction in it. */
export type Queryable = Pick<Database, 'select' | 'selectDistinct' | 'insert' | 'update' | 'delete' | 'execute'>;

export interface OpenDatabase {
  db: Database;
  pool: pg.Pool;
  close: () => Promise<void>;
}

/** Makes a pool; connects at the first query. `onError` hears of idle connections that break. */
export function openDatabase(config: pg.PoolConfig, onError: (error: Error) => void): OpenDatabase {
  const pool = new pg.Pool({
    connectionTimeoutMillis: 10_000, // a query must not hang on a host that went away: the activity's retry is the place to wait
    idle_in_transaction_session_timeout: 30_000, // nor on a worker that is frozen in the middle of a transaction, with its locks
    application_name: 'backupvm',
    ...config,
  });
  pool.on('error', onError);
  // The pool hears of idle connections only. Whoever uses this one learns of its end by the query: unheard, it ends the process.
  pool.on('connect', (client) => client.on('error', () => undefined));
  return { db: drizzle(pool, { schema }), pool, close: () => pool.end() };
}

/** The time of Postgres: no worker's clock decides what may be deleted. */
export async function databaseTime(db: Queryable): Promise<Date> {
  const { rows } = await db.execute<{ ms: number }>(
    sql`select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms`,
  );
  const [{ ms } = { ms: NaN }] = rows;
  return new Date(ms);
}

/** The Postgres error behind a query's failure, if it is one. */
function postgresError(error: unknown): { code?: string; constraint?: string; message: string } | undefined {
  for (let current = error; current instanceof Error; current = current.cause) {
    if ('code' in current && typeof current.code === 'string') return current as { code: string; message: string };
    if (current instanceof AggregateError && current.errors.length > 0) return postgresError(current.errors[0]);
  }
  return undefined;
}

/** The messages of an error and of what caused it. */
function messages(error: unknown): string {
  return error instanceof Error ? `${error.message}\n${messages(error.cause)}` : '';
}

/** Whether a query failed because of this unique constraint or index. */
export function violatesUnique(error: unknown, constraint: string): boolean {
  const found = postgresError(error);
  return found?.code === '23505' && found.constraint === constraint;
}

const unreachable = /^(ECONN|ENOTFOUND|EAI_|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|EPIPE|08|25P03|57P0|53300)/;

/** Puts a failure of Postgres itself into words; undefined when the error is of another kind. `address` holds no password. */
export function describeDatabaseFailure(error: unknown, address: string): BackupError | undefined {
  const found = postgresError(error);
  const timedOut = /timeout exceeded when trying to connect|Connection terminated/.test(messages(error));
  if (found?.code === '42P01' || found?.code === '3F000' || found?.code === '42703') {
    return new BackupError(
      'DatabaseNotMigrated',
      `The database at ${address} is not at the version that this program needs (${found.message}); run 'backupvm setup'`,
      { cause: error },
    );
  }
  if (found?.code === '28P01' || found?.code === '28000' || found?.code === '3D000') {
    return new BackupError('DatabaseUnreachable', `Postgres at ${address} refused us: ${found.message}`, {
      cause: error,
    });
  }
  if (timedOut || (found?.code && unreachable.test(found.code))) {
    return new BackupError(
      'DatabaseUnreachable',
      `Expected Postgres at ${address}, could not reach it: ${found?.message ?? 'connection timed out'}; check DATABASE_URL or PG*, and that the server runs`,
      { cause: error },
    );
  }
  return undefined;
}
