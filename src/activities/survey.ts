import { dirname } from 'node:path';
import type { Database } from '../db/database.js';
import type { NbdExport } from '../db/exports.js';
import type { RepositoryRow } from '../db/repositories.js';
import { listLeases, listRecordedDisks, listRepositoriesOf, type RecordedDisk } from '../db/survey.js';
import { exportNamePrefix, hashesFilePath, manifestPath } from '../domain/names.js';
import { tableBytes } from '../hashes/table.js';
import { exportSocket } from '../nbd/export-socket.js';
import { isAlive } from '../process/identity.js';
import { listRunningServers, type RunningServer } from '../qemu/running-servers.js';
import { draftPath } from '../repository/durable.js';
import { describeExposure } from '../repository/exposure.js';
import { errorCodeOf } from '../repository/file-errors.js';
import { lstat } from '../repository/file-system.js';
import { fileFacts, insideRepository } from '../repository/files.js';
import { listBackupFiles } from '../repository/list-files.js';
import { requireRepository } from '../repository/marker.js';
import type { HostDependencies } from './dependencies.js';
import { exportDirectory } from './export-process.js';
import { heartbeating } from './heartbeat.js';
import { messageOf } from '../domain/message-of.js';

/** What was found: all are counted, the first ones shown, because Temporal keeps it. */
export interface Found<T> {
  count: number;
  first: T[];
}

/** A qemu-nbd that no lease knows: another program's, or one whose row has gone. */
export interface UnknownExport {
  pid: number;
  /** One of these is null: it listens on a TCP port, or on a Unix socket. */
  port: number | null;
  socket: string | null;
  exportName: string;
  file: string;
}

/** A file that looks like ours, and that no restore point and no job knows. Paths are relative to the repository. */
export interface UnknownFile {
  repository: string;
  path: string;
  fileBytes: number;
}

/** A file of a restore point that is not as it was sealed. */
export interface ChangedFile {
  repository: string;
  vm: string;
  jobId: string;
  path: string;
  expectedBytes: number;
  /** Null where there is none. */
  foundBytes: number | null;
}

export interface FileSurvey {
  unknownFiles: Found<UnknownFile>;
  changedFiles: Found<ChangedFile>;
  /** Repositories that could not be looked at, or that other users can reach, and why. */
  problems: string[];
}

const shownOfEach = 50;

export function createSurveyActivities({ db, host, nbdPorts, runDir }: HostDependencies) {
  return {
    /** Finds each qemu-nbd that listens where ours do, in this host's range of ports, or under our name, without a lease. Touches none. */
    async surveyExports(): Promise<Found<UnknownExport>> {
      // The row stands before the process starts, and until it is dead: so processes first, rows then, and a second look.
      const servers = (await listRunningServers()).filter(
        ({ port, socket, exportName }) =>
          exportName.startsWith(exportNamePrefix) ||
          (port !== null && port >= nbdPorts.first && port <= nbdPorts.last) ||
          (socket !== null && dirname(socket) === exportDirectory(runDir)),
      );
      const leases = await listLeases(db, host);
      const found = noneFound<UnknownExport>();
      for (const { identity, ...server } of servers) {
        const isLeased = leases.some((lease) => isBehind(lease, { identity, ...server }));
        if (!isLeased && (await isAlive(identity))) add(found, { pid: identity.pid, ...server });
      }
      return found;
    },

    /** Compares the files in this host's repositories with the rows, by name and size. Touches none. Reads every folder. */
    async surveyFiles(): Promise<FileSurvey> {
      return heartbeating(async (signal) => {
        const survey: FileSurvey = { unknownFiles: noneFound(), changedFiles: noneFound(), problems: [] };
        for (const repository of await listRepositoriesOf(db, host)) {
          await surveyRepository(db, repository, survey, signal);
        }
        return survey;
      });
    },
  };
}

/** Whether a process is the one behind a lease; before its identity is recorded, by socket and name. */
function isBehind(lease: NbdExport, { identity, socket, exportName }: RunningServer): boolean {
  if (lease.pidFile === null || exportSocket(lease.pidFile) !== socket || lease.exportName !== exportName) return false;
  return lease.pid === null || (lease.pid === identity.pid && lease.startTime === identity.startTime);
}

async function surveyRepository(
  db: Database,
  { id, name, path: root }: RepositoryRow,
  survey: FileSurvey,
  signal: AbortSignal,
): Promise<void> {
  const inFileSystem = async <T>(look: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await look();
    } catch (error) {
      signal.throwIfAborted();
      survey.problems.push(`Repository '${name}' was not looked at whole: ${messageOf(error)}`);
      return undefined;
    }
  };
  const files = await inFileSystem(async () => {
    await requireRepository(root, id);
    return listBackupFiles(root, signal);
  });
  if (files === undefined) return;
  await inFileSystem(async () => {
    const exposure = await describeExposure(root, files);
    if (exposure !== null) survey.problems.push(`Repository '${name}': ${exposure}`);
  });
  const disks = await listRecordedDisks(db, id); // after the files, as with processes
  await inFileSystem(async () => {
    for (const unknown of await findUnknownFiles(root, files, disks, signal)) {
      add(survey.unknownFiles, { repository: name, ...unknown });
    }
    for (const changed of await findChangedFiles(root, disks, signal)) {
      add(survey.changedFiles, { repository: name, ...changed });
    }
  });
}

async function findUnknownFiles(
  root: string,
  files: readonly string[],
  disks: readonly RecordedDisk[],
  signal: AbortSignal,
): Promise<Omit<UnknownFile, 'repository'>[]> {
  const known = new Set(
    disks.flatMap(({ directory, pointTime, path, attemptPath }) => {
      const manifest = manifestPath(directory, pointTime);
      const hashes = hashesFilePath(path);
      return [path, attemptPath ?? path, hashes, draftPath(hashes), manifest, draftPath(manifest)];
    }),
  );
  const unknown: Omit<UnknownFile, 'repository'>[] = [];
  for (const path of files) {
    if (known.has(path)) continue;
    signal.throwIfAborted();
    const fileBytes = await linkOrFileBytes(insideRepository(root, path));
    if (fileBytes !== undefined) unknown.push({ path, fileBytes }); // else it went with its row, meanwhile
  }
  return unknown;
}

/** Of the name itself: a link that leads nowhere is there, too. */
async function linkOrFileBytes(path: string): Promise<number | undefined> {
  try {
    return (await lstat(path)).size;
  } catch (error) {
    if (errorCodeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

async function findChangedFiles(
  root: string,
  disks: readonly RecordedDisk[],
  signal: AbortSignal,
): Promise<Omit<ChangedFile, 'repository'>[]> {
  const changed: Omit<ChangedFile, 'repository'>[] = [];
  for (const { vm, jobId, path: image, sizeBytes, fileBytes } of disks) {
    if (fileBytes === null) continue;
    signal.throwIfAborted();
    const sealed = { [image]: fileBytes, [hashesFilePath(image)]: tableBytes(sizeBytes) };
    for (const [path, expectedBytes] of Object.entries(sealed)) {
      const foundBytes = (await fileFacts(insideRepository(root, path)))?.fileBytes ?? null;
      if (foundBytes !== expectedBytes) changed.push({ vm, jobId, path, expectedBytes, foundBytes });
    }
  }
  return changed;
}

function noneFound<T>(): Found<T> {
  return { count: 0, first: [] };
}

function add<T>(found: Found<T>, one: T): void {
  found.count += 1;
  if (found.first.length < shownOfEach) found.first.push(one);
}

export type SurveyActivities = ReturnType<typeof createSurveyActivities>;
