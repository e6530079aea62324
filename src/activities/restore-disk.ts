import { dirname } from 'node:path';
import { getDisk, listChain, type BackupDisk } from '../db/disks.js';
import { requireClaim } from '../db/hosts.js';
import { getRepository } from '../db/repositories.js';
import {
  beginWriting,
  findRestore,
  findRestoreDisk,
  leaseGone,
  recordWriter,
  recordWritten,
  type RestoreDisk,
} from '../db/restores.js';
import { getContext } from '../db/contexts.js';
import { BackupError } from '../domain/errors.js';
import { hashesFilePath } from '../domain/names.js';
import { recordedIdentity, stopProcess } from '../process/identity.js';
import { convertImage, dataBytesOf } from '../qemu/convert.js';
import type { ImageFiles } from '../qemu/image-reference.js';
import { open, rm, settleFile } from '../repository/file-system.js';
import { insideRepository } from '../repository/files.js';
import { chainFiles, withPinnedChain } from '../repository/pinned-chain.js';
import { requireRepository } from '../repository/marker.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { requireHost } from './job-rows.js';
import { requireStillAllowed } from './restore-dirs.js';
import { compareWithSealed } from './restore-source.js';
import { atTarget, fileAt } from './restore-paths.js';

/** What a disk's restore came to. */
export interface WrittenDisk {
  writtenBytes: number;
  verifiedBlocks: number;
  differentBlocks: number;
}

/** Its reader closes what it was writing at once; its file system may be slow to let go. */
const writerStopTimeouts = { termTimeoutMs: 5_000, killTimeoutMs: 30_000 };

export function createRestoreDiskActivities(dependencies: HostDependencies) {
  const { db, host } = dependencies;
  return {
    /**
     * Writes one disk into its unfinished file, reads it back, and compares it block by block with the hashes of its restore
     * point. May run twice: it first ends what an earlier attempt left, and begins with a clean file.
     */
    async restoreDisk(input: { restoreDiskId: string; allowDamaged: boolean }): Promise<WrittenDisk> {
      const restored = await findRestoreDisk(db, input.restoreDiskId);
      if (!restored) throw leaseGone(input.restoreDiskId);
      const disk = await getDisk(db, restored.backupDiskId);
      let phase: 'writing' | 'verifying' = 'writing';
      let fraction = 0;
      const write = async (signal: AbortSignal) => {
        const root = await repositoryOf(disk);
        await stopWriter(dependencies, restored);
        await requireTargetAllowed(restored);
        await atTarget(restored.path, () => rm(restored.attemptPath, { force: true }));
        const chain = chainFiles(await listChain(db, disk.id));
        await withPinnedChain(root, chain, (source) =>
          writeDisk(restored, source, signal, (done) => (fraction = done)),
        );
        [phase, fraction] = ['verifying', 0];
        return verify(restored, disk, insideRepository(root, hashesFilePath(disk.path)), {
          ...{ allowDamaged: input.allowDamaged, signal },
          onProgress: (done) => (fraction = done),
        });
      };
      return heartbeating(write, () => {
        const { sizeBytes, diskKey: key } = disk;
        return { key, phase, doneBytes: Math.round(fraction * sizeBytes), totalBytes: sizeBytes };
      });
    },
  };

  async function repositoryOf({ contextId }: BackupDisk): Promise<string> {
    const { repositoryId } = await getContext(db, contextId);
    const repository = await getRepository(db, repositoryId);
    requireHost(host, repository);
    await requireRepository(repository.path, repository.id);
    return repository.path;
  }

  async function requireTargetAllowed({ leaseId, path }: RestoreDisk): Promise<void> {
    const restore = await findRestore(db, leaseId);
    if (!restore) throw leaseGone(leaseId);
    await requireStillAllowed(dependencies, restore.target, dirname(path));
  }

  async function writeDisk(
    { id, leaseId, path, attemptPath, format }: RestoreDisk,
    source: ImageFiles,
    signal: AbortSignal,
    onProgress: (fraction: number) => void,
  ): Promise<void> {
    if (!(await beginWriting(db, id))) throw leaseGone(leaseId);
    // Closed to others before the first byte is in it. Fails where a later attempt has made its file.
    await atTarget(path, async () => (await open(attemptPath, 'wx', 0o600)).close());
    try {
      await convertImage({
        ...{ source, target: attemptPath, format, signal, onProgress },
        onStart: async (writer) => {
          if (!(await recordWriter(db, id, writer))) throw leaseGone(leaseId);
        },
      });
      await atTarget(path, async () => settleFile(attemptPath, likeTheOldOne(await fileAt(path))));
    } catch (error) {
      await rm(attemptPath, { force: true }).catch(() => undefined); // clean-up may have been here before this attempt made it
      throw error;
    }
  }

  async function verify(
    { id, leaseId, attemptPath, format }: RestoreDisk,
    disk: BackupDisk,
    hashesFile: string,
    { allowDamaged, signal, onProgress }: VerifyOptions,
  ): Promise<WrittenDisk> {
    const writtenBytes = await dataBytesOf(attemptPath, format, signal);
    const files: ImageFiles = [attemptPath];
    const compared = await compareWithSealed(disk, { files, format, hashesFile, signal, onProgress }).catch(
      (error: unknown) => {
        if (!allowDamaged || !(error instanceof BackupError && error.code === 'PointDamaged')) throw error;
        return { comparedBlocks: 0, dataBytes: 0, differentBlocks: 0, firstDifferences: [] }; // no hashes to compare with
      },
    );
    const { comparedBlocks, dataBytes, differentBlocks, firstDifferences } = compared;
    if (differentBlocks > 0 && !allowDamaged) {
      throw new BackupError(
        'ContentDiffers',
        `Expected disk '${disk.diskKey}' as restore point ${disk.jobId} holds it, found ${differentBlocks} of ${comparedBlocks} blocks different in ${attemptPath}, the first at byte ${firstDifferences[0] ?? 0}; run 'backupvm verify --point ${disk.jobId} --level content'`,
      );
    }
    if (dataBytes > 0 && writtenBytes === 0) {
      throw new BackupError(
        'CopyIncomplete',
        `Expected ${dataBytes} bytes of disk '${disk.diskKey}' in ${attemptPath}, found that nothing was written`,
      );
    }
    if (!(await recordWritten(db, id, writtenBytes))) throw leaseGone(leaseId);
    return { writtenBytes, verifiedBlocks: comparedBlocks, differentBlocks };
  }
}

/** The owner and mode of the file that is replaced; a new one belongs to its owner alone: a disk holds secrets. */
function likeTheOldOne(old: { uid: number; gid: number; mode: number } | undefined) {
  return old ? { uid: old.uid, gid: old.gid, mode: old.mode & 0o7777 } : { mode: 0o600 };
}

interface VerifyOptions {
  allowDamaged: boolean;
  signal: AbortSignal;
  onProgress: (fraction: number) => void;
}

/**
 * Ends the process that writes a disk, and returns only when it is known dead. Killed by identity, never by name.
 * @throws BackupError ExportFailed when it cannot be ended; WrongHost where this is not the host's machine any more
 */
export async function stopWriter(
  { db, host, machineId }: Pick<HostDependencies, 'db' | 'host' | 'machineId'>,
  disk: Pick<RestoreDisk, 'pid' | 'startTime' | 'bootId'>,
): Promise<void> {
  await requireClaim(db, { host, machineId });
  const writer = recordedIdentity(disk);
  if (writer) await stopProcess(writer, writerStopTimeouts);
}

export type RestoreDiskActivities = ReturnType<typeof createRestoreDiskActivities>;
