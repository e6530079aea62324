import { randomUUID } from 'node:crypto';
import { basename } from 'node:path';
import type { Database } from '../db/database.js';
import { getDisk, listChain, recordAttempt, replanAsFull, type BackupDisk } from '../db/disks.js';
import { findExport, recordPidFile, recordProcess, releasePort } from '../db/exports.js';
import { BackupError } from '../domain/errors.js';
import { attemptFilePath } from '../domain/names.js';
import { planReasons, type BackupType, type PlanReason } from '../domain/plan.js';
import { exportPidFile, removeExportFiles, requireFreeNumber } from '../nbd/export-socket.js';
import { copyConnections } from '../nbd/nbdcopy.js';
import { stopProcess } from '../process/identity.js';
import { requirePrivateDirectory } from '../process/private-directory.js';
import { createImage } from '../qemu/qemu-img.js';
import { exportStopTimeouts, startExport } from '../qemu/qemu-nbd.js';
import { fileFacts, insideRepository, makeFolder, removeFile } from '../repository/files.js';
import { chainFiles, withPinnedChain } from '../repository/pinned-chain.js';
import { probeRepository } from '../repository/marker.js';
import type { HostDependencies } from './dependencies.js';
import { exportDirectory, stopExportProcess } from './export-process.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost } from './job-rows.js';
import { findChainTrouble } from './parent-files.js';
import { requireCurrent } from './repository-epoch.js';

export interface StartExportInput {
  jobId: string;
  diskId: string;
  /** What a full of the disk has to copy, and what the planned copy has to. */
  dataBytes: number;
  changedBytes: number;
  onLostChangeId: 'full' | 'fail';
}

/** How the disk is copied: trouble with the parent's file turns an incremental into a full. */
export interface StartedExport {
  type: BackupType;
  reason: PlanReason;
}

/** Room for QCOW2's own tables, and for what others write meanwhile. */
const spaceMarginBytes = 64 * 1024 * 1024;

export function createExportActivities({ db, host, machineId, runDir }: HostDependencies) {
  return {
    /**
     * Makes an empty QCOW2 file under the attempt's name and serves it under the leased number. What an earlier attempt left is
     * stopped and removed first.
     */
    async startExport(input: StartExportInput): Promise<StartedExport> {
      return heartbeating(async (signal) => {
        const { job, repository } = await getJobRows(db, input.jobId);
        requireHost(host, repository);
        const planned = await getDisk(db, input.diskId);
        const lease = await findExport(db, planned.id);
        if (!lease) {
          throw new BackupError(
            'ExportFailed',
            `Expected a leased port for disk '${planned.diskKey}' of job ${job.id}, found none`,
          );
        }
        await stopExportProcess({ db, machineId, runDir }, lease);
        const root = repository.path;
        const { freeBytes } = await probeRepository(root, repository.id);
        await requireCurrent(db, repository);
        if (planned.attemptPath !== null) await removeFile(insideRepository(root, planned.attemptPath));

        const disk = await settleType(db, root, planned, input.onLostChangeId, signal);
        requireSpace(disk, disk.type === 'full' ? input.dataBytes : input.changedBytes, freeBytes);
        const final = insideRepository(root, disk.path);
        if (await fileFacts(final)) {
          throw new BackupError(
            'AlreadyExists',
            `Expected no file ${final} yet, found one, which may be that of a restore point; it was left as it is`,
          );
        }

        const directory = await requireExportDirectory(runDir, lease.port);
        const attemptId = randomUUID().slice(0, 8);
        const attemptPath = attemptFilePath(disk.path, job.id, attemptId);
        const file = insideRepository(root, attemptPath);
        if (!(await recordAttempt(db, disk.id, { attemptPath, nbdPort: lease.port }))) throw tooLate(job.id);
        await makeFolder(root, attemptPath);
        const parents = disk.parentId === null ? [] : await listChain(db, disk.parentId);
        await makeImage(root, { file, sizeBytes: disk.sizeBytes, signal }, parents);

        const attempt = { diskId: disk.id, attemptPath };
        const pidFile = exportPidFile(directory, lease.port, attemptId);
        if (!(await recordPidFile(db, attempt, pidFile))) {
          await removeFile(file);
          throw tooLate(job.id);
        }
        await withPinnedChain(root, chainFiles([{ path: attemptPath, isWritten: true }, ...parents]), async (files) => {
          const served = { name: file, files, sizeBytes: disk.sizeBytes, exportName: lease.exportName, pidFile };
          const process = await startExport({ ...served, connections: copyConnections, signal });
          if (await recordProcess(db, attempt, process)) return;
          await stopProcess(process, exportStopTimeouts); // clean-up, or another attempt, did not know of it
          await removeExportFiles(pidFile);
          await removeFile(file);
          throw tooLate(job.id);
        });
        return { type: disk.type, reason: disk.reason as PlanReason };
      });
    },

    /** Stops a disk's qemu-nbd, then releases its number. Nothing to stop is success. */
    async stopExport(input: { diskId: string }): Promise<void> {
      const lease = await findExport(db, input.diskId);
      if (!lease) return;
      requireHost(host, { name: lease.exportName, host: lease.host });
      await heartbeating(() => stopExportProcess({ db, machineId, runDir }, lease));
      await releasePort(db, lease);
    },
  };
}

/** The directory for sockets and pid files, which nobody else may enter, with this number free in it. @throws BackupError PortTaken */
async function requireExportDirectory(runDir: string, port: number): Promise<string> {
  const directory = exportDirectory(runDir);
  await requirePrivateDirectory(runDir);
  await requirePrivateDirectory(directory);
  await requireFreeNumber(directory, port);
  return directory;
}

/** For an attempt that was taken for dead, and comes back after its job has been cleaned up, or another one has begun. */
function tooLate(jobId: string): BackupError {
  return new BackupError(
    'JobNotFound',
    `Expected job ${jobId} running, with no later attempt at this disk, found that it has ended, or was begun anew; nothing was started for it`,
  );
}

/** The disk's row as it will be copied: an incremental stays one only if every file that it needs is as it was sealed. */
async function settleType(
  db: Database,
  root: string,
  disk: BackupDisk,
  onLostChangeId: 'full' | 'fail',
  signal: AbortSignal,
): Promise<BackupDisk> {
  if (disk.parentId === null) return disk;
  const trouble = await findChainTrouble(db, root, disk.parentId, signal);
  if (!trouble) return disk;
  if (onLostChangeId === 'fail') {
    throw new BackupError(
      'ParentUnusable',
      `Expected an incremental of disk '${disk.diskKey}', but ${planReasons[trouble.reason]}: ${trouble.path}; allow a full with onLostChangeId 'full'`,
    );
  }
  await replanAsFull(db, disk.id, trouble.reason);
  return getDisk(db, disk.id);
}

/** Makes the empty file of a full, or of an incremental on these parents, the nearest one first. */
async function makeImage(
  root: string,
  image: { file: string; sizeBytes: number; signal: AbortSignal },
  parents: readonly BackupDisk[],
): Promise<void> {
  const [nearest] = parents;
  if (!nearest) return createImage(image);
  await withPinnedChain(root, chainFiles(parents), (files) =>
    createImage({ ...image, parent: { name: basename(nearest.path), files } }),
  );
}

function requireSpace(disk: BackupDisk, neededBytes: number, freeBytes: number): void {
  if (neededBytes + spaceMarginBytes <= freeBytes) return;
  throw new BackupError(
    'RepositoryFull',
    `Expected ${neededBytes + spaceMarginBytes} bytes free for a ${disk.type} of disk '${disk.diskKey}', found ${freeBytes}; free some, or use another repository`,
  );
}

export type ExportActivities = ReturnType<typeof createExportActivities>;
