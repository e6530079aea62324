import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import { cpuTicks } from '../process/identity.js';
import { statfs } from '../repository/file-system.js';

const GiB = 1024 ** 3;
/** A guest can write a GiB within seconds, so look often. */
const intervalMs = 500;

export interface CopyWatch {
  /** Aborted, with the error to throw, when the copy has to end. */
  signal: AbortSignal;
  /** Says who copies: its use of the processor is progress, too, where a percent takes hours. */
  copies: (pid: number) => void;
  stop: () => void;
}

export interface CopyWatchOptions {
  /** What is copied, for messages. */
  disk: string;
  /** How far the copy is, in any unit. */
  progress: () => number;
  scratchDir: string;
  stallTimeoutMs: number;
}

/**
 * Watches a copy from outside. Ends it when nothing moves for `stallTimeoutMs`, and before the hypervisor's scratch space is
 * full: QEMU would pause the guest then.
 */
export function watchCopy({ disk, progress, scratchDir, stallTimeoutMs }: CopyWatchOptions): CopyWatch {
  const ended = new AbortController();
  const stopped = new AbortController();
  let pid: number | undefined;
  const watch = async () => {
    let last = '';
    let movedAt = performance.now();
    for (;;) {
      await wait(intervalMs, undefined, { signal: stopped.signal });
      await requireScratchSpace(scratchDir);
      const now = `${progress()} ${pid === undefined ? '' : await cpuTicks(pid)}`;
      if (now !== last) movedAt = performance.now();
      last = now;
      if (performance.now() - movedAt >= stallTimeoutMs) {
        throw new BackupError(
          'CopyStalled',
          `The copy of disk '${disk}' made no progress for ${Math.round(stallTimeoutMs / 1000)} s, and was ended; see whether its source and the repository answer`,
        );
      }
    }
  };
  watch().catch((error: unknown) => {
    if (!stopped.signal.aborted) ended.abort(error);
  });
  return { signal: ended.signal, copies: (copyPid) => (pid = copyPid), stop: () => stopped.abort() };
}

/**
 * What must stay free where the hypervisor keeps what the guest overwrites while a snapshot is open.
 * @throws BackupError ScratchFull
 */
export async function requireScratchSpace(scratchDir: string): Promise<void> {
  const { bavail, blocks, bsize } = await statfs(scratchDir);
  const [freeBytes, reserveBytes] = [bavail * bsize, Math.min(GiB, (blocks * bsize) / 10)];
  if (freeBytes >= reserveBytes) return;
  throw new BackupError(
    'ScratchFull',
    `Expected at least ${formatBytes(Math.round(reserveBytes))} free in ${scratchDir} while a snapshot is open, found ${formatBytes(freeBytes)}; free some, or set BACKUPVM_SCRATCH_DIR to a larger file system`,
  );
}
