import { once } from 'node:events';
import { readdir, rm } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { BackupError } from '../domain/errors.js';

/**
 * Where the qemu-nbd of one attempt writes its pid; its socket lies next to it. The name holds the leased port, which is the
 * export's number, and the attempt: a late clean-up of one attempt never removes the socket of the next one.
 */
export function exportPidFile(directory: string, port: number, attempt: string): string {
  return join(directory, `${port}-${attempt}.pid`);
}

/** The Unix socket of the export with this pid file. */
export function exportSocket(pidFile: string): string {
  return pidFile.replace(/\.pid$/, '.sock');
}

/** The NBD URI of an export on this host; names may hold any character. */
export function exportUri(socket: string, exportName: string): string {
  return `nbd+unix:///${encodeURIComponent(exportName)}?socket=${encodeURIComponent(socket)}`;
}

/** Removes what an export leaves, because qemu-nbd keeps its socket when it is killed. Only once its process is known dead. */
export async function removeExportFiles(pidFile: string): Promise<void> {
  await rm(pidFile, { force: true });
  await rm(exportSocket(pidFile), { force: true });
}

/**
 * Looks whether a process that our lease does not know serves under this number: that of another installation, or one whose row
 * was lost. A socket on which nobody listens is no obstacle.
 * @throws BackupError PortTaken (details.port)
 */
export async function requireFreeNumber(directory: string, port: number): Promise<void> {
  const names = (await readdir(directory)).filter((name) => name.startsWith(`${port}-`) && name.endsWith('.sock'));
  for (const name of names) {
    const socket = join(directory, name);
    if (!(await isListening(socket))) continue;
    throw new BackupError(
      'PortTaken',
      `cannot serve export ${port}: a process without a lease listens on ${socket}; run 'backupvm reconcile' to see it`,
      { details: { port } },
    );
  }
}

async function isListening(socket: string): Promise<boolean> {
  const connection = createConnection(socket);
  try {
    await once(connection, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    connection.destroy();
  }
}
