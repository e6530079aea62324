import type { Command } from 'commander';
import { readConfig, type Config } from '../config/config.js';
import { describeDatabaseFailure, openDatabase } from '../db/database.js';
import { listHypervisors } from '../db/hypervisors.js';
import { migrateDatabase } from '../db/migrate.js';
import { listRepositories } from '../db/repositories.js';
import { addCommand } from './command.js';
import { withTemporal } from './connect.js';
import { ensureReconcileSchedule } from './reconcile-schedule.js';
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

      const hosts = await listHosts(config);
      const { namespace, created, warnings, schedules } = await withTemporal(
        async ({ client, connection, namespace }) => ({
          namespace,
          ...(await createSearchAttributes(connection, namespace)),
          schedules: await Promise.all(hosts.map((host) => ensureReconcileSchedule(client, host))),
        }),
      );
      const attributes = created.length > 0 ? `created ${created.join(', ')}` : 'nothing to create';
      print(terminal, options, {
        document: {
          database: { address, migrationsApplied: migrations },
          temporal: { namespace, searchAttributesCreated: created, warnings, schedules },
        },
        text: [
          ...(warnings.length > 0 ? [] : [`Temporal namespace '${namespace}', search attributes: ${attributes}`]),
          ...warnings.map((warning) => `Warning: ${warning}`),
          `Schedules, each minute: ${schedules.join(', ')}`,
        ].join('\n'),
      });
    },
  );
}

/** This host, and all that a hypervisor or repository is registered on. */
async function listHosts(config: Config): Promise<string[]> {
  const { db, close } = openDatabase(config.database.pool, () => undefined);
  try {
    const registered = [...(await listHypervisors(db)), ...(await listRepositories(db))].map(({ host }) => host);
    return [...new Set([config.host, ...registered])];
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
