import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { getDisk } from '../db/disks.js';
import { findExport } from '../db/exports.js';
import { BackupError } from '../domain/errors.js';
import { totalBytes } from '../domain/extents.js';
import { copyExtents, copyFull } from '../nbd/nbdcopy.js';
import { targetUri } from '../nbd/target-uri.js';
import { verifyCopy } from '../nbd/verify-copy.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost } from './job-rows.js';

/** Both in bytes. */
export interface TransferCounts {
  changedBytes: number;
  writtenBytes: number;
}

export function createTransferActivities({ db, host, runDir, createSource }: HostDependencies) {
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
      if (!lease || disk.sourceUri === null || disk.status !== 'copying') {
        throw new BackupError(
          'CopyFailed',
          `Expected an open snapshot and an export for disk '${disk.diskKey}', found it ${disk.status}`,
        );
      }
      const { sourceUri, dirtyContext, sizeBytes, changeId, diskKey: key } = disk;
      const target = targetUri(lease.port, lease.exportName);
      const totalCopyBytes = dirtyContext === null ? input.dataBytes : input.changedBytes;
      let doneBytes = 0;
      const onProgress = (fraction: number) => (doneBytes = Math.round(fraction * totalCopyBytes));
      return heartbeating(
        async (signal) => {
          if (dirtyContext === null) {
            await mappingNoSpace(() => copyFull({ sourceUri, targetUri: target, onProgress, signal }));
            const { writtenBytes } = await verifyCopy({
              targetUri: target,
              sourceSizeBytes: sizeBytes,
              extents: null,
              signal,
            });
            return { changedBytes: input.dataBytes, writtenBytes };
          }
          const opened = { key, sizeBytes, uri: sourceUri, changedSince: null, dirtyContext, changeId };
          const extents = await createSource(hypervisor).changedExtents(opened, signal);
          const extentListFile = join(runDir, 'extents', `${disk.id}.list`);
          await mkdir(join(runDir, 'extents'), { recursive: true });
          try {
            await mappingNoSpace(() =>
              copyExtents({ sourceUri, targetUri: target, extents, extentListFile, onProgress, signal }),
            );
          } finally {
            await rm(extentListFile, { force: true });
          }
          const { writtenBytes } = await verifyCopy({ targetUri: target, sourceSizeBytes: sizeBytes, extents, signal });
          return { changedBytes: totalBytes(extents), writtenBytes };
        },
        () => ({ key, doneBytes, totalBytes: totalCopyBytes }),
      );
    },
  };
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
