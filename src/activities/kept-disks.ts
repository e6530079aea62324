import { getContext } from '../db/contexts.js';
import { getJob } from '../db/jobs.js';
import {
  forgetKept,
  listDueKept,
  listKept,
  recordKept,
  recordKeptProblem,
  type KeptDisk,
  type KeptFileFacts,
} from '../db/kept-disks.js';
import type { Restore, RestoreDisk } from '../db/restores.js';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { requireUnlocked } from '../qemu/qemu-img.js';
import { errorCodeOf } from '../repository/file-errors.js';
import { lstat } from '../repository/file-system.js';
import { removeFile } from '../repository/files.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { requireUnused } from './in-place.js';
import { atTarget, fileAt } from './restore-paths.js';

/** A disk that a restore replaced, and what became of it now. */
export interface KeptDiskReport {
  id: string;
  vm: string;
  path: string;
  keptPath: string;
  fileBytes: number;
  /** ISO 8601; null while its restore goes on. */
  keptUntil: string | null;
  outcome: 'kept' | 'removed' | 'gone' | `left: ${string}`;
}

export function createKeptDiskActivities(dependencies: HostDependencies) {
  const { db, host } = dependencies;
  return {
    /** Removes the replaced disks whose time is up, and says what is kept. May run twice, and next to any restore. */
    async removeKeptDisks(input: { dryRun: boolean }): Promise<KeptDiskReport[]> {
      return heartbeating(async (signal) => {
        const done = new Map<string, KeptDiskReport['outcome']>();
        const rows = await listKept(db, { host });
        for (const disk of input.dryRun ? [] : await listDueKept(db, host)) {
          done.set(disk.id, await tryToRemove(dependencies, disk, signal));
        }
        return rows.slice(0, shownRows).map((disk) => report(disk, done.get(disk.id)));
      });
    },
  };
}

/** Temporal keeps what an activity returns. `backupvm kept list` shows all. */
const shownRows = 50;

function report(disk: KeptDisk, outcome: KeptDiskReport['outcome'] | undefined): KeptDiskReport {
  const { id, vmName: vm, path, keptPath, fileBytes, keptUntil, problem } = disk;
  const asBefore = problem === null ? 'kept' : (`left: ${problem}` as const);
  return {
    ...{ id, vm, path, keptPath, fileBytes },
    keptUntil: keptUntil?.toISOString() ?? null,
    outcome: outcome ?? asBefore,
  };
}

/** One disk that cannot be removed does not keep the others waiting. */
async function tryToRemove(
  dependencies: HostDependencies,
  disk: KeptDisk,
  signal: AbortSignal,
): Promise<KeptDiskReport['outcome']> {
  try {
    return await remove(dependencies, disk, signal);
  } catch (error) {
    signal.throwIfAborted();
    await recordKeptProblem(dependencies.db, disk.id, messageOf(error));
    return `left: ${messageOf(error)}`;
  }
}

/** The row goes after the file: whoever dies between the two finds no file under the name, and forgets it then. */
async function remove(
  dependencies: HostDependencies,
  disk: KeptDisk,
  signal: AbortSignal,
): Promise<'removed' | 'gone'> {
  const { db } = dependencies;
  const { id, path, keptPath } = disk;
  if (!(await atTarget(path, () => fileAt(path)))) {
    throw new BackupError(
      'TargetUnusable',
      `nothing is at ${path}, so that ${keptPath} may be all that is left of the disk; mount its file system, or run 'backupvm kept forget ${id}'`,
    );
  }
  const found = await factsOf(keptPath);
  if (found) {
    if (!isSame(found, disk)) {
      throw new BackupError(
        'TargetUnusable',
        `${keptPath} is no longer the file that was kept; look at it, then run 'backupvm kept forget ${id}'`,
      );
    }
    await requireUnlocked(keptPath, signal);
    await requireUnused(dependencies, [keptPath], () => false, signal);
    await removeFile(keptPath);
  }
  await forgetKept(db, id);
  return found ? 'removed' : 'gone';
}

/**
 * Records that a file which a restore replaces is about to be kept, or is kept already. Safe to repeat, also with the rows of an older
 * database: what has been placed and removed since is not recorded again.
 */
export async function keepReplaced(
  { db, host }: Pick<HostDependencies, 'db' | 'host'>,
  restore: Restore,
  { path, attemptPath, keptPath }: RestoreDisk,
): Promise<void> {
  const { leaseId: restoreId, jobId, target, keepReplacedSeconds: keepSeconds } = restore;
  if (keptPath === null || keepSeconds === 0) return;
  const isUnplaced = (await factsOf(attemptPath)) !== undefined;
  const facts = (await factsOf(keptPath)) ?? (isUnplaced ? await factsOf(path) : undefined);
  if (!facts) return; // there was none, or somebody took it away meanwhile
  const vmName = restore.vmName ?? (await getContext(db, (await getJob(db, jobId)).contextId)).vmName;
  await recordKept(db, { host, path, keptPath, restoreId, jobId, vmName, target, keepSeconds, ...facts });
}

/** Of the name itself, never of what a link leads to. */
async function factsOf(path: string): Promise<KeptFileFacts | undefined> {
  return atTarget(path, async () => {
    try {
      const found = await lstat(path);
      if (!found.isFile()) throw new BackupError('TargetUnusable', `${path} is no plain file; it was left as it is`);
      return { inode: String(found.ino), fileBytes: found.size, fileModifiedMs: Math.floor(found.mtimeMs) };
    } catch (error) {
      if (errorCodeOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  });
}

const isSame = (a: KeptFileFacts, b: KeptFileFacts) =>
  a.inode === b.inode && a.fileBytes === b.fileBytes && a.fileModifiedMs === b.fileModifiedMs;

export type KeptDiskActivities = ReturnType<typeof createKeptDiskActivities>;
