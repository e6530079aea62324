import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { drizzle } from 'drizzle-orm/node-postgres';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import type pg from 'pg';
import { BackupError } from '../domain/errors.js';

const migrationsFolder = fileURLToPath(new URL('../../drizzle', import.meta.url));

/** Any number that nothing else in this database locks. */
const migrationLock = 7_226_001;

/** Applies the migrations that are missing. Several at once wait for each other. @returns how many it applied */
export async function migrateDatabase(pool: pg.Pool): Promise<number> {
  const client = await pool.connect();
  try {
    await client.query('select pg_advisory_lock($1)', [migrationLock]); // the migrator takes no lock of its own
    const before = await appliedMigrations(client);
    await migrate(drizzle(client), { migrationsFolder });
    return (await appliedMigrations(client)) - before;
  } finally {
    await client.query('select pg_advisory_unlock($1)', [migrationLock]).catch(() => undefined);
    client.release();
  }
}

/** @throws BackupError DatabaseNotMigrated unless the database is exactly at the version of this program */
export async function requireMigrated(pool: pg.Pool): Promise<void> {
  const journal = JSON.parse(await readFile(`${migrationsFolder}/meta/_journal.json`, 'utf8')) as {
    entries: unknown[];
  };
  const client = await pool.connect();
  try {
    const applied = await appliedMigrations(client);
    if (applied === journal.entries.length) return;
    const { rows } = await client.query<{ name: string }>('select current_database() as name');
    const next = applied < journal.entries.length ? `run 'backupvm setup'` : 'use a newer version of backupvm';
    throw new BackupError(
      'DatabaseNotMigrated',
      `Expected database '${rows[0]?.name}' at migration ${journal.entries.length}, found ${applied}; ${next}`,
    );
  } finally {
    client.release();
  }
}

async function appliedMigrations(client: pg.PoolClient): Promise<number> {
  const { rows } = await client.query<{ found: string | null }>(
    `select to_regclass('drizzle.__drizzle_migrations') as found`,
  );
  if (!rows[0]?.found) return 0;
  const applied = await client.query<{ count: number }>(
    'select count(*)::int as count from drizzle.__drizzle_migrations',
  );
  return applied.rows[0]?.count ?? 0;
}
