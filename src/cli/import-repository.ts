import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Config } from '../config/config.js';
import type { Database } from '../db/database.js';
import { addHypervisor, chooseHypervisor, listHypervisors } from '../db/hypervisors.js';
import {
  closeLostJobs,
  importPoints,
  type ImportedContext,
  type ImportedPoint,
  type ImportOutcome,
} from '../db/import-points.js';
import { addRepository, listRepositories, type RepositoryRow } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { isRepositoryAhead, takeOverRepository } from '../activities/repository-epoch.js';
import { markGone } from '../activities/gone-points.js';
import { readMarker } from '../repository/marker.js';
import { readPoints, type FoundPoint, type ManifestProblem } from '../repository/read-points.js';
import { addCommand, parseName } from './command.js';
import { withDatabase } from './connect.js';
import { printable } from './format.js';
import { print, type CommonOptions, type Output, type Terminal } from './terminal.js';

interface ImportOptions extends CommonOptions {
  name?: string;
  hypervisor?: string;
}

export function addImportCommand(group: Command, terminal: Terminal): void {
  addCommand(
    group,
    'import',
    'Record the restore points of a directory of this machine by their manifests: a lost database is not a lost backup',
    'repository import /srv/backups',
  )
    .argument('<path>', 'a directory that was a repository before')
    .option('--name <name>', 'name to register it under (default: the one it was made as)', parseName)
    .option('--hypervisor <name>', 'where the VMs run now (default: as the manifests say)')
    .action(async (path: string, options: ImportOptions) => {
      const outcome = await withDatabase(terminal, (db, config) =>
        importRepository(db, config, resolve(path), options, terminal.onInterrupt()),
      );
      print(terminal, options, describeImport(outcome));
      requireNoProblems(outcome);
    });
}

interface RepositoryImport extends ImportOutcome {
  repository: { id: string; name: string; host: string; path: string };
  /** Restore points that were recorded before. */
  known: number;
  /** Restore points that are recorded, and whose files are gone: they are marked as damaged. */
  gone: string[];
  problems: ManifestProblem[];
}

/** One VM's trouble does not keep the others from being imported. @throws BackupError RepositoryUnusable, AlreadyExists, HypervisorNotFound */
async function importRepository(
  db: Database,
  config: Config,
  path: string,
  options: ImportOptions,
  signal: AbortSignal,
): Promise<RepositoryImport> {
  const repository = await adoptRepository(db, config, path, options.name);
  const isAhead = await isRepositoryAhead(db, repository);
  const { points, problems } = await readPoints(path, repository.id, signal);
  const outcome: ImportOutcome = { imported: [], updated: [] };
  let isWhole = true;
  let known = 0;
  for (const found of byContext(points)) {
    try {
      const added = await importContext(db, repository, found, { hypervisor: options.hypervisor, isAhead });
      outcome.imported.push(...added.imported);
      outcome.updated.push(...added.updated);
      known += found.length - added.imported.length;
    } catch (error) {
      if (!(error instanceof BackupError) || error.code === 'HypervisorNotFound') throw error;
      if (error.code === 'InUse') isWhole = false; // may be imported later, and until then nothing there may be changed
      problems.push(...found.map((point) => ({ path: point.path, problem: error.message })));
    }
  }
  if (isAhead) await closeLostJobs(db, repository.id);
  const gone = await markGone(db, repository);
  if (isWhole) await takeOverRepository(db, repository);
  const { id, name, host } = repository;
  return { repository: { id, name, host, path }, ...outcome, known, gone, problems };
}

/** The registered repository of this directory's marker file; registers it where it is not. */
async function adoptRepository(
  db: Database,
  { host }: Config,
  path: string,
  name: string | undefined,
): Promise<RepositoryRow> {
  const marker = await readMarker(path);
  if (!marker) {
    throw new BackupError(
      'RepositoryUnusable',
      `Expected a repository at ${path}, found no marker file; is it mounted?`,
    );
  }
  const found = (await listRepositories(db)).find((row) => row.id === marker.id);
  if (found?.host === host && found.path === path) return found;
  return addRepository(db, { id: marker.id, name: name ?? marker.name, host, path });
}

function byContext(points: readonly FoundPoint[]): FoundPoint[][] {
  const found = new Map<string, FoundPoint[]>();
  for (const point of points) {
    const { contextId } = point.manifest;
    found.set(contextId, [...(found.get(contextId) ?? []), point]);
  }
  return [...found.values()];
}

/** The newest manifest says what the VM is called, and where it runs. */
async function importContext(
  db: Database,
  repository: RepositoryRow,
  points: readonly FoundPoint[],
  { hypervisor, isAhead }: { hypervisor: string | undefined; isAhead: boolean },
): Promise<ImportOutcome> {
  const newest = points.at(-1);
  if (!newest) return { imported: [], updated: [] };
  const { directory, manifest } = newest;
  const context: ImportedContext = {
    ...{ id: manifest.contextId, repositoryId: repository.id, directory },
    ...{ hypervisorId: await findHypervisor(db, manifest.hypervisor, hypervisor) },
    ...{ vmId: manifest.vm.id, vmName: manifest.vm.name },
  };
  return importPoints(db, context, points.map(importedPoint), { isAhead });
}

async function findHypervisor(
  db: Database,
  told: FoundPoint['manifest']['hypervisor'],
  name: string | undefined,
): Promise<string> {
  if (name !== undefined) return (await chooseHypervisor(db, name)).id;
  const found = (await listHypervisors(db)).find(({ host, uri }) => host === told.host && uri === told.uri);
  return (found ?? (await addHypervisor(db, told))).id;
}

function importedPoint({ pointTime, manifest }: FoundPoint): ImportedPoint {
  const { jobId, consistency, vmConfig, disks } = manifest;
  return {
    ...{ id: jobId, pointTime, consistency, vmConfig },
    disks: disks.map(({ key, parent, ...disk }) => ({ ...disk, diskKey: key, parentId: parent?.id ?? null })),
  };
}

function describeImport(outcome: RepositoryImport): Output {
  const { repository, imported, updated, known, gone, problems } = outcome;
  return {
    document: outcome,
    text: [
      `Repository '${printable(repository.name)}' at ${repository.path}: ${imported.length} restore point(s) imported, ${known} known before, ${problems.length} left out`,
      ...(updated.length > 0 ? [`Merged since they were recorded, and brought up to date: ${updated.join(', ')}`] : []),
      ...(gone.length > 0
        ? [
            `Recorded, but their files are gone; marked as damaged, delete them with 'backupvm delete': ${gone.join(', ')}`,
          ]
        : []),
      ...problems.map(({ path, problem }) => `Left out: ${printable(path)}: ${printable(problem)}`),
    ].join('\n'),
  };
}

function requireNoProblems({ problems, repository }: RepositoryImport): void {
  if (problems.length === 0) return;
  throw new BackupError(
    'PointDamaged',
    `${problems.length} manifest(s) of repository '${repository.name}' could not be imported; their files were left as they are`,
  );
}
