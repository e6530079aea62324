import type { Client, Connection } from '@temporalio/client';
import { readConfig, type Config } from '../config/config.js';
import { connectClient } from '../config/temporal.js';
import { describeDatabaseFailure, openDatabase, type Database } from '../db/database.js';
import { requireMigrated } from '../db/migrate.js';
import type { Terminal } from './terminal.js';

/**
 * Runs a command's work on the migrated database.
 * @throws BackupError InvalidConfiguration, DatabaseUnreachable, DatabaseNotMigrated, or what `use` throws
 */
export async function withDatabase<T>(
  terminal: Terminal,
  use: (db: Database, config: Config) => Promise<T>,
): Promise<T> {
  const config = readConfig(terminal.env);
  const database = openDatabase(config.database.pool, () => undefined); // the next query meets it, too
  try {
    await requireMigrated(database.pool);
    return await use(database.db, config);
  } catch (error) {
    throw describeDatabaseFailure(error, config.database.address) ?? error;
  } finally {
    await database.close();
  }
}

export interface Temporal {
  client: Client;
  connection: Connection;
  namespace: string;
  /** Of the server, for messages. */
  address: string;
}

/**
 * Runs a command's work with a Temporal client.
 * @throws BackupError TemporalUnreachable, or what `use` throws
 */
export async function withTemporal<T>(use: (temporal: Temporal) => Promise<T>): Promise<T> {
  const temporal = await connectClient();
  try {
    return await use(temporal);
  } finally {
    await temporal.connection.close();
  }
}
