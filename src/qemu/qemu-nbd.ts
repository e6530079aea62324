import { readdir, readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { BackupError } from '../domain/errors.js';
import { exportSizeBytes } from '../nbd/nbdinfo.js';
import { exportSocket, exportUri, removeExportFiles } from '../nbd/export-socket.js';
import { identify, stopProcess, type ProcessIdentity, type StopTimeouts } from '../process/identity.js';
import { run, type Outcome } from '../process/run.js';
import { imageReference, type ImageFiles } from './image-reference.js';
import { throwIfLocked } from './qemu-img.js';

/** It opens a file and a socket, and forks. */
const startTimeoutMs = 60_000;
/** For our own look at the export, next to the connections of the copy: when all are in use, a further one hangs. */
const spareConnections = 2;
/** SIGTERM lets qemu-nbd write its metadata back to a disk that may be busy; after SIGKILL only the kernel's I/O is left. */
export const exportStopTimeouts: StopTimeouts = { termTimeoutMs: 20_000, killTimeoutMs: 20_000 };

export interface StartExportRequest {
  /** What is served, by the name that people know. */
  name: string;
  files: ImageFiles;
  sizeBytes: number;
  exportName: string;
  /** In a directory that only this user may enter: the socket lies next to it, and whoever reaches that can write to the disk. */
  pidFile: string;
  /** How many connections the copy will open. */
  connections: number;
  signal: AbortSignal;
}

/**
 * Serves a QCOW2 file on a Unix socket by a qemu-nbd that outlives this process; returns when an NBD handshake has shown the right
 * export. When it throws, nothing runs. Not to be repeated while the first one runs: the file is locked.
 * @throws BackupError ExportFailed, also when another process writes to the file or to a parent
 */
export async function startExport(request: StartExportRequest): Promise<ProcessIdentity> {
  const { name, sizeBytes, exportName, pidFile, signal } = request;
  const socket = exportSocket(pidFile);
  await removeExportFiles(pidFile); // an old pid file would name a stranger
  try {
    await launch(request);
    const identity = await readIdentity(pidFile);
    if (!identity) throw new BackupError('ExportFailed', `qemu-nbd for ${name} ended right after its start`);
    signal.throwIfAborted();
    const foundBytes = await exportSizeBytes(exportUri(socket, exportName), signal);
    if (foundBytes !== sizeBytes) {
      throw new BackupError(
        'ExportFailed',
        `Expected export '${exportName}' on ${socket} to have ${sizeBytes} bytes, found ${foundBytes}`,
      );
    }
    return identity;
  } catch (error) {
    const left = await findExportProcess(pidFile, exportName); // also where it hung before it wrote its pid file
    if (left) await stopProcess(left, exportStopTimeouts);
    await removeExportFiles(pidFile);
    throw error;
  }
}

async function launch(request: StartExportRequest): Promise<void> {
  let outcome = await runQemuNBD(request, 'io_uring');
  // Kernels before 5.1, and containers whose seccomp profile forbids it. A little slower, and as durable.
  if (outcome.exitCode !== 0 && /io_uring/.test(outcome.stderr)) outcome = await runQemuNBD(request, 'threads');
  if (outcome.exitCode === 0) return;
  const said = outcome.stderr.trim().slice(0, 2000);
  throwIfLocked(request.files[0], outcome);
  const advice = said.includes('O_DIRECT') ? '; its file system must support O_DIRECT' : '';
  throw new BackupError('ExportFailed', `qemu-nbd cannot serve ${request.name}: ${said}${advice}`);
}

function runQemuNBD(request: StartExportRequest, aio: 'io_uring' | 'threads'): Promise<Outcome> {
  const args = [
    ...['--cache=none', `--aio=${aio}`, '--discard=unmap', '--detect-zeroes=unmap'],
    `--shared=${request.connections + spareConnections}`,
    '--persistent', // the readiness check must not be the last client
    '--allocation-depth', // verifyCopy asks for it
    ...[`--socket=${resolve(exportSocket(request.pidFile))}`, exportNameArgument(request.exportName)],
    `--description=${request.name}`, // for whoever looks at the processes: the files have other names here
    ...['--fork', pidFileArgument(request.pidFile), imageReference(request.files)],
  ];
  // Without the signal: to end the parent between fork and pid file would leave a child that nobody knows.
  return run('qemu-nbd', args, { timeoutMs: startTimeoutMs });
}

const exportNameArgument = (exportName: string) => `--export-name=${exportName}`;
const pidFileArgument = (pidFile: string) => `--pid-file=${resolve(pidFile)}`;

async function readIdentity(pidFile: string): Promise<ProcessIdentity | undefined> {
  const text = await readFile(pidFile, 'latin1').catch(() => '');
  const pid = Number(text.trim());
  return Number.isSafeInteger(pid) && pid > 1 ? identify(pid) : undefined;
}

/**
 * The qemu-nbd that was started with this pid file for this export, by whatever worker; undefined when there is none. Found by
 * its arguments, because a pid file may not be written yet, or tell of a process whose number another one has by now.
 */
export async function findExportProcess(pidFile: string, exportName: string): Promise<ProcessIdentity | undefined> {
  const pids = (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry)).map(Number);
  const isIt = async (pid: number) => {
    const args = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    return args.includes(pidFileArgument(pidFile)) && args.includes(exportNameArgument(exportName));
  };
  const matches = await Promise.all(pids.map(async (pid) => ((await isIt(pid)) ? await identify(pid) : undefined)));
  const found = matches.filter((identity) => identity !== undefined);
  // While it starts there are two: the one that forked goes when the one that it forked goes, and not the other way round.
  return found.sort((a, b) => Number(b.startTime) - Number(a.startTime) || b.pid - a.pid)[0];
}
