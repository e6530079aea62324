import type { Command } from 'commander';
import { readConfig, type Config } from '../config/config.js';
import { describeDatabaseFailure, openDatabase } from '../db/database.js';
import { migrateDatabase } from '../db/migrate.js';
import { addCommand } from './command.js';
import type { Namespace } from '../domain/namespace.js';
import { openInstallation } from '../temporal-namespace.js';
import { withTemporal, type Temporal } from './connect.js';
import { createSearchAttributes } from './search-attributes.js';
import { print, printProgress, type CommonOptions, type Terminal } from './terminal.js';

export function addSetupCommand(program: Command, terminal: Terminal): void {
  addCommand(program, 'setup', 'Bring the database and the Temporal namespace up to this version', 'setup').action(
    async (options: CommonOptions) => {
      const config = readConfig(terminal.env);
      const { address } = config.database;
      const migrations = await applyMigrations(config);
      const found = migrations === 0 ? 'is up to date' : `brought up to date by ${migrations} migration(s)`;
      printProgress(terminal, options, `Database ${address}: ${found}`);

      const { namespace, created, warnings } = await withTemporal(async (temporal) => ({
        namespace: await claimNamespace(config, temporal),
        ...(await createSearchAttributes(temporal.connection, temporal.namespace)),
      }));
      const attributes = created.length > 0 ? `created ${created.join(', ')}` : 'nothing to create';
      print(terminal, options, {
        document: {
          database: { address, migrationsApplied: migrations },
          temporal: {
            namespace: namespace.name,
            namespaceId: namespace.id,
            searchAttributesCreated: created,
            warnings,
          },
        },
        text: [
          `Temporal namespace '${namespace.name}', id ${namespace.id}: this database belongs to it`,
          ...(warnings.length > 0 ? [] : [`Search attributes: ${attributes}`]),
          ...warnings.map((warning) => `Warning: ${warning}`),
        ].join('\n'),
      });
    },
  );
}

/** Ties the database to the namespace, at the first time. @throws BackupError NamespaceNotFound, WrongNamespace */
async function claimNamespace(config: Config, { connection, namespace, address }: Temporal): Promise<Namespace> {
  const { db, close } = openDatabase(config.database.pool, () => undefined);
  try {
    return await openInstallation(db, connection, { name: namespace, address });
  } finally {
    await close();
  }
}

/** Brings the database up to this version. Safe to repeat. @returns how many migrations were applied */
export async function applyMigrations(config: Config): Promise<number> {
  const database = openDatabase(config.database.pool, () => undefined);
  try {
    return await migrateDatabase(database.pool);
  } catch (error) {
    throw describeDatabaseFailure(error, config.database.address) ?? error;
  } finally {
    await database.close();
  }
}
