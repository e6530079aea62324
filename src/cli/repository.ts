import { statfs } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { requireNotOlder } from '../activities/repository-epoch.js';
import type { Config } from '../config/config.js';
import type { Database } from '../db/database.js';
import { addRepository, listRepositories, type RepositoryRow } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { readEpoch } from '../repository/epoch.js';
import { describeExposure } from '../repository/exposure.js';
import { createMarker, readMarker, requireRepository, type Marker } from '../repository/marker.js';
import { formatBytes } from '../domain/format-bytes.js';
import { addCommand, addGroup, parseName } from './command.js';
import { withDatabase } from './connect.js';
import { formatTable } from './format.js';
import { addImportCommand } from './import-repository.js';
import { addRepositoryProtectionCommand } from './protect.js';
import { hasColours, print, type CommonOptions, type Output, type Terminal } from './terminal.js';

interface AddOptions extends CommonOptions {
  path: string;
  host?: string;
}

export function addRepositoryCommands(program: Command, terminal: Terminal): void {
  const group = addGroup(program, 'repository', 'Register directories that hold backups');
  addCommand(
    group,
    'add',
    'Register a directory of this machine as a repository',
    'repository add main --path /srv/backups',
  )
    .argument('<name>', 'name to register it under', parseName)
    .requiredOption(
      '--path <directory>',
      'required; an existing directory; one that was a repository before is adopted',
    )
    .option('--host <host>', 'the host that the directory is on: must be this one')
    .action(async (name: string, options: AddOptions) => {
      const output = await withDatabase(terminal, (db, config) => add(db, config, name, options));
      print(terminal, options, output);
    });

  addImportCommand(group, terminal);

  addCommand(group, 'list', 'List the registered repositories', 'repository list').action(
    async (options: CommonOptions) => {
      const rows = await withDatabase(terminal, async (db, { host }) =>
        Promise.all((await listRepositories(db)).map(async (row) => ({ ...row, ...(await look(db, row, host)) }))),
      );
      print(terminal, options, {
        document: {
          repositories: rows.map(({ id, name, host, path, immutableUntil, freeBytes, problem }) => ({
            ...{ id, name, host, path, immutableUntil },
            ...{ freeBytes, problem },
          })),
        },
        text: listText(rows, terminal),
      });
    },
  );

  addRepositoryProtectionCommand(group, terminal);
}

async function add(db: Database, config: Config, name: string, { path: given, host }: AddOptions): Promise<Output> {
  if (host !== undefined && host !== config.host) {
    throw new BackupError(
      'WrongHost',
      `Repository '${name}' is on host '${host}', this is '${config.host}'; run 'backupvm repository add' there: it writes a marker file`,
    );
  }
  const path = resolve(given);
  // Looked up before the marker file is made, so that a refusal leaves nothing behind.
  const taken = (await listRepositories(db)).find((row) => row.name === name);
  if (taken) {
    throw new BackupError(
      'AlreadyExists',
      `A repository named '${name}' is registered already (${taken.path} on host '${taken.host}'); choose another name`,
    );
  }
  const marker = await readMarker(path);
  if (marker) await requireNoPoints(db, path, marker);
  const { id } = marker ?? (await createMarker(path, name));
  const row = await addRepository(db, { id, name, host: config.host, path });
  const { bavail, bsize } = await statfs(path);
  const freeBytes = bavail * bsize;
  const exposure = await describeExposure(path);
  const how = marker ? `adopted by its marker file (made as '${marker.name}')` : 'marker file made';
  return {
    document: {
      repository: { id: row.id, name, host: row.host, path, freeBytes },
      adopted: marker !== undefined,
      exposure,
    },
    text: [
      `Repository '${name}' registered: ${path} on host '${row.host}', ${formatBytes(freeBytes)} free; ${how}`,
      ...(exposure === null ? [] : [`Warning: ${exposure}`]),
    ].join('\n'),
  };
}

/** @throws BackupError RepositoryAhead when another database wrote restore points there, which would be unknown to this one */
async function requireNoPoints(db: Database, path: string, { id }: Marker): Promise<void> {
  const isRegistered = (await listRepositories(db)).some((row) => row.id === id); // refused with a better word, next
  if (isRegistered || (await readEpoch(path)) === undefined) return;
  throw new BackupError(
    'RepositoryAhead',
    `cannot register ${path}: another database has written restore points there, which this one does not know; run 'backupvm repository import ${path}'`,
  );
}

interface Look {
  /** Null where the directory is on another host, or there is a problem. */
  freeBytes: number | null;
  problem: string | null;
}

async function look(db: Database, { id, host, path }: RepositoryRow, thisHost: string): Promise<Look> {
  if (host !== thisHost) return { freeBytes: null, problem: null };
  try {
    await requireRepository(path, id);
    await requireNotOlder(db, { id, path });
    const { bavail, bsize } = await statfs(path);
    return { freeBytes: bavail * bsize, problem: null };
  } catch (error) {
    if (error instanceof BackupError) return { freeBytes: null, problem: error.message };
    throw error;
  }
}

function listText(rows: readonly (RepositoryRow & Look)[], terminal: Terminal): string {
  if (rows.length === 0) return `No repository is registered; add one with 'backupvm repository add'`;
  const table = formatTable(
    ['NAME', 'HOST', 'PATH', 'FREE'],
    rows.map(({ name, host, path, freeBytes, problem }) => [
      ...[name, host, path],
      freeBytes === null ? (problem === null ? 'on its host' : 'unusable') : formatBytes(freeBytes),
    ]),
    { right: ['FREE'], colours: hasColours(terminal) },
  );
  return [table, ...rows.flatMap(({ problem }) => (problem === null ? [] : [`Warning: ${problem}`]))].join('\n');
}
