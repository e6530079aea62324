import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { getDisk } from '../db/disks.js';
import { findExport, recordCopyProcess, type Attempt } from '../db/exports.js';
import { BackupError } from '../domain/errors.js';
import { totalBytes, type Extent } from '../domain/extents.js';
import { exportSocket, exportUri } from '../nbd/export-socket.js';
import { copyExtents, copyFull, type CopyRequest } from '../nbd/nbdcopy.js';
import { exportSizeBytes } from '../nbd/nbdinfo.js';
import { verifyCopy } from '../nbd/verify-copy.js';
import type { ProcessIdentity } from '../process/identity.js';
import { requirePrivateDirectory } from '../process/private-directory.js';
import { watchCopy } from './copy-watch.js';
import type { HostDependencies } from './dependencies.js';
import { copyDirectory, stopCopyProcess } from './export-process.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost } from './job-rows.js';

/** Both in bytes. */
export interface TransferCounts {
  changedBytes: number;
  writtenBytes: number;
}

export function createTransferActivities(dependencies: HostDependencies) {
  const { db, host, runDir, scratchDir, stallTimeoutMs, createSource } = dependencies;
  return {
    /**
     * Copies one disk from the open snapshot into its export, and looks whether all of it arrived. Has one attempt: a second
     * one needs a clean file, so it is the workflow that begins anew.
     */
    async transferDisk(input: {
      jobId: string;
      diskId: string;
      dataBytes: number;
      changedBytes: number;
    }): Promise<TransferCounts> {
      const { hypervisor } = await getJobRows(db, input.jobId);
      requireHost(host, hypervisor);
      const disk = await getDisk(db, input.diskId);
      const lease = await findExport(db, disk.id);
      if (!lease?.pidFile || disk.sourceUri === null || disk.attemptPath === null || disk.status !== 'copying') {
        throw new BackupError(
          'CopyFailed',
          `Expected an open snapshot and an export for disk '${disk.diskKey}', found it ${disk.status}`,
        );
      }
      const { sourceUri, dirtyContext, sizeBytes, diskKey: key } = disk;
      const attempt = { diskId: disk.id, attemptPath: disk.attemptPath };
      const targetUri = exportUri(exportSocket(lease.pidFile), lease.exportName);
      await stopCopyProcess(dependencies, lease); // of the run that this one was reset from
      const totalCopyBytes = dirtyContext === null ? input.dataBytes : input.changedBytes;
      let doneBytes = 0;
      const watch = watchCopy({ disk: key, progress: () => doneBytes, scratchDir, stallTimeoutMs });
      const copyAndVerify = async (cancelSignal: AbortSignal): Promise<TransferCounts> => {
        const signal = AbortSignal.any([cancelSignal, watch.signal]);
        const request: CopyRequest = {
          sourceUri,
          targetUri,
          onProgress: (fraction) => (doneBytes = Math.round(fraction * totalCopyBytes)),
          async onStart(copy) {
            watch.copies(copy.pid);
            await recordCopy(attempt, copy);
          },
          signal,
        };
        const opened = { key, sizeBytes, uri: sourceUri, dirtyContext };
        try {
          const extents = dirtyContext === null ? null : await createSource(hypervisor).changedExtents(opened, signal);
          await copy(disk.id, request, extents);
          const { writtenBytes } = await verifyCopy({ targetUri, sourceSizeBytes: sizeBytes, extents, signal });
          return { changedBytes: extents ? totalBytes(extents) : input.dataBytes, writtenBytes };
        } catch (error) {
          signal.throwIfAborted();
          await requireSnapshot(key, sourceUri, signal);
          throw error;
        }
      };
      try {
        return await heartbeating(copyAndVerify, () => ({ key, doneBytes, totalBytes: totalCopyBytes }));
      } finally {
        watch.stop();
      }
    },
  };

  async function recordCopy(attempt: Attempt, copy: ProcessIdentity): Promise<void> {
    if (await recordCopyProcess(db, attempt, copy)) return;
    throw new BackupError(
      'CopyFailed',
      `Expected the lease of disk ${attempt.diskId} while it is copied, found none, or another attempt's: clean-up has been here`,
    );
  }

  /** All of the disk, or only these extents. */
  async function copy(diskId: string, request: CopyRequest, extents: Extent[] | null): Promise<void> {
    if (!extents) return mappingNoSpace(() => copyFull(request));
    const directory = copyDirectory(runDir, diskId);
    await requirePrivateDirectory(runDir);
    await requirePrivateDirectory(dirname(directory));
    try {
      await mappingNoSpace(() => copyExtents({ ...request, extents, directory }));
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }
}

/**
 * After a copy that failed: a snapshot that is gone does not come back, so beginning anew would only hide what happened.
 * @throws BackupError SnapshotLost
 */
async function requireSnapshot(diskKey: string, sourceUri: string, signal: AbortSignal): Promise<void> {
  try {
    await exportSizeBytes(sourceUri, signal);
  } catch (cause) {
    signal.throwIfAborted();
    // Only these say that nobody serves it: a source that is slow, or has no connection free, may answer the next time.
    if (!(cause instanceof BackupError) || !/Connection refused|No such file or directory/.test(cause.message)) return;
    throw new BackupError(
      'SnapshotLost',
      `Expected the snapshot of disk '${diskKey}' open until it is copied, found that nobody serves it any more: the VM was stopped or crashed, or somebody ended its backup job; back it up again`,
      { cause },
    );
  }
}

/** A full repository shows only as an I/O error of the NBD server; waiting and trying again would not help. */
async function mappingNoSpace(copy: () => Promise<void>): Promise<void> {
  try {
    await copy();
  } catch (error) {
    if (!(error instanceof BackupError) || !/No space left on device/.test(error.message)) throw error;
    throw new BackupError('RepositoryFull', `The repository ran out of space during the copy: ${error.message}`, {
      cause: error,
    });
  }
}

export type TransferActivities = ReturnType<typeof createTransferActivities>;
