import { rm } from 'node:fs/promises';
import type { NbdExport } from '../db/exports.js';
import { stopProcess } from '../process/identity.js';
import { exportStopTimeouts, findExportProcess } from '../qemu/qemu-nbd.js';

/**
 * Stops the qemu-nbd behind a lease, and returns only when it is known dead. This is the line that stops qemu-nbd, for every
 * caller. Killed by identity, never by name; where a crash came before the identity was recorded, its pid file finds it.
 * @throws BackupError ExportFailed when it cannot be stopped: then the lease must stay
 */
export async function stopExportProcess(lease: NbdExport): Promise<void> {
  const { pid, startTime, bootId, pidFile, exportName } = lease;
  if (pid !== null && startTime !== null && bootId !== null) {
    await stopProcess({ pid, startTime, bootId }, exportStopTimeouts);
  } else if (pidFile !== null) {
    const found = await findExportProcess(pidFile, exportName);
    if (found) await stopProcess(found, exportStopTimeouts);
  }
  if (pidFile !== null) await rm(pidFile, { force: true });
}
