import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BackupError } from '../domain/errors.js';
import type { Extent } from '../domain/extents.js';
import type { ProcessIdentity } from '../process/identity.js';
import { progressFD, runWithProgress } from '../process/run-with-progress.js';
import { withServer } from '../process/with-server.js';

/** Connections that one copy opens to its target. More gained nothing on the machines measured. */
export const copyConnections = 2;
/** For a full: few, large requests. */
const fullRequestBytes = 2 * 1024 * 1024;
const fullQueueBytes = 16 * fullRequestBytes;
/** For an incremental: one QCOW2 cluster, because qemu-nbd finds zeros only in whole requests. */
const extentRequestBytes = 64 * 1024;

export interface CopyRequest {
  sourceUri: string;
  targetUri: string;
  /** From 0 to 1, ever rising. */
  onProgress: (fraction: number) => void;
  /** Hears who copies; when it throws, the copy is killed. */
  onStart?: (identity: ProcessIdentity) => Promise<void>;
  /** Bounds the copy: nothing else does. */
  signal: AbortSignal;
}

/**
 * Copies a whole disk into an empty image without parent: what reads as zero is left out. Flushed when it returns.
 * To be repeated into a new image only.
 * @throws BackupError CopyFailed, CopyIncomplete
 */
export async function copyFull(request: CopyRequest): Promise<void> {
  const sizes = [`--request-size=${fullRequestBytes}`, `--queue-size=${fullQueueBytes}`];
  await copy(request, [...sizes, request.sourceUri]);
}

export interface CopyExtentsRequest extends CopyRequest {
  /** Normalized, within the disk. */
  extents: readonly Extent[];
  /** For the list and the socket of nbdkit; emptied first, and left for its owner to remove. Its path takes at most 102 bytes. */
  directory: string;
}

/**
 * Copies just these extents into an overlay, those that read as zero included. Flushed when it returns.
 * To be repeated into a new image only.
 * @throws BackupError CopyFailed, CopyIncomplete
 */
export async function copyExtents({ extents, directory, ...request }: CopyExtentsRequest): Promise<void> {
  const { sourceUri, signal } = request;
  signal.throwIfAborted();
  if (extents.length === 0) {
    request.onProgress(1);
    return;
  }
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const list = join(directory, 'extents');
  const socket = join(directory, 'sock');
  const pidFile = join(directory, 'pid');
  await writeFile(list, extents.map(({ offset, length }) => `${offset} ${length}\n`).join(''));
  const options = ['--foreground', '--readonly', `--unix=${socket}`, `--pidfile=${pidFile}`, '--filter=extentlist'];
  const args = [...options, 'nbd', `uri=${sourceUri}`, `extentlist=${list}`];
  // Not by nbdcopy's own `[ nbdkit ... ]`: that makes a directory in /tmp, which stays when nbdcopy is killed.
  await withServer({ program: 'nbdkit', args, pidFile, signal }, (said) =>
    copy(
      request,
      [
        // Without it nbdcopy looks for zeros in what it reads and, told that the target is zero, leaves them out: then the parent shows through.
        '--sparse=0',
        `--request-size=${extentRequestBytes}`,
        `nbd+unix:///?socket=${encodeURIComponent(socket)}`,
      ],
      said,
    ),
  );
}

/** `--destination-is-zero`: what lies outside the extents is not written at all, and shows the parent. */
async function copy(
  { targetUri, onProgress, onStart, signal }: CopyRequest,
  args: string[],
  serverSaid = () => '',
): Promise<void> {
  let percent = 0;
  const onLine = (line: string) => {
    const found = /^(\d+)\/100$/.exec(line)?.[1];
    if (found === undefined) return;
    percent = Math.max(percent, Number(found));
    onProgress(percent / 100);
  };
  const options = ['--destination-is-zero', '--flush', `--connections=${copyConnections}`, `--progress=${progressFD}`];
  const outcome = await runWithProgress('nbdcopy', [...options, ...args, targetUri], { signal, onStart, onLine });
  if (outcome.exitCode !== 0) {
    const said = `${outcome.stderr.trim().slice(0, 2000)} ${serverSaid()}`.trim();
    throw new BackupError('CopyFailed', `nbdcopy into ${targetUri} failed with exit code ${outcome.exitCode}: ${said}`);
  }
  if (percent !== 100) {
    throw new BackupError(
      'CopyIncomplete',
      `Expected nbdcopy into ${targetUri} to report 100/100, found ${percent}/100`,
    );
  }
}
