import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { NbdExport } from '../db/exports.js';
import { requireClaim } from '../db/hosts.js';
import { removeExportFiles } from '../nbd/export-socket.js';
import { recordedIdentity, stopProcess } from '../process/identity.js';
import { exportStopTimeouts, findExportProcess } from '../qemu/qemu-nbd.js';
import type { HostDependencies } from './dependencies.js';

/**
 * Stops the copy and the qemu-nbd behind a lease, and returns only when both are known dead. This is the line that stops
 * qemu-nbd, for every caller. Killed by identity, never by name; where a crash came before the identity was recorded, its
 * pid file finds it.
 * @throws BackupError ExportFailed when one cannot be stopped, WrongHost where this is not the host's machine any more, so that
 * they only look dead: then the lease must stay
 */
export async function stopExportProcess(
  { db, machineId, runDir }: Pick<HostDependencies, 'db' | 'machineId' | 'runDir'>,
  lease: NbdExport,
): Promise<void> {
  await stopCopyProcess({ db, machineId }, lease); // first: it is the one that writes
  const { pidFile, exportName } = lease;
  const server =
    recordedIdentity(lease) ?? (pidFile === null ? undefined : await findExportProcess(pidFile, exportName));
  if (server) await stopProcess(server, exportStopTimeouts);
  if (pidFile !== null) await removeExportFiles(pidFile);
  await rm(copyDirectory(runDir, lease.diskId), { recursive: true, force: true }); // of a copy whose worker died
}

/** Stops the copy that writes to a leased export, known dead; qemu-nbd serves on. @throws BackupError as `stopExportProcess` */
export async function stopCopyProcess(
  { db, machineId }: Pick<HostDependencies, 'db' | 'machineId'>,
  lease: NbdExport,
): Promise<void> {
  await requireClaim(db, { host: lease.host, machineId });
  const copy = recordedIdentity({
    pid: lease.copyPid,
    startTime: lease.copyStartTime,
    bootId: lease.copyBootId,
  });
  if (copy) await stopProcess(copy, exportStopTimeouts);
}

/** Where the exports of this host listen, and where their pid files lie. */
export function exportDirectory(runDir: string): string {
  return join(runDir, 'exports');
}

/** What nbdkit needs while it serves the extents that a copy of this disk is to read. */
export function copyDirectory(runDir: string, diskId: string): string {
  return join(runDir, 'copies', diskId);
}
