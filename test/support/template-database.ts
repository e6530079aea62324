import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { openDatabase, type OpenDatabase } from '../../src/db/database.js';

export interface TestDatabase extends OpenDatabase {
  url: string;
  /** Closes the pool and removes the database, whoever is still connected. */
  drop: () => Promise<void>;
}

/** Makes a migrated, empty database; the caller drops it. `purpose` is what its connections are called in Postgres. */
export async function copyDatabase(templateUrl: string, purpose: string): Promise<TestDatabase> {
  const template = new URL(templateUrl).pathname.slice(1);
  const name = `test_${randomBytes(8).toString('hex')}`;
  await administrate(templateUrl, `create database ${name} template ${template}`);

  const url = withDatabase(templateUrl, name);
  // A test may break its connections on purpose: only its queries have to notice.
  const open = openDatabase({ connectionString: url, application_name: purpose.slice(0, 63) }, () => undefined);
  const drop = async () => {
    await open.close();
    await administrate(templateUrl, `drop database ${name} with (force)`);
  };
  return { ...open, url, drop };
}

// From the database `postgres`: nobody may be connected to a template while it is copied.
async function administrate(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: withDatabase(url, 'postgres') });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}

function withDatabase(url: string, name: string): string {
  const other = new URL(url);
  other.pathname = `/${name}`;
  return other.href;
}
