import { listRestoreDisks, undoUnlessPlacing } from '../db/restores.js';
import type { HostDependencies } from './dependencies.js';
import { finishRestore, undoRestore } from './place-restore.js';
import { stopWriter } from './restore-disk.js';

/**
 * Ends what a restore began, keyed by its rows: stops whoever writes, and then undoes it, or finishes it where every disk was
 * written. No half file is left under a final name. Safe to repeat, and after a crash in the middle. With the rows of an older database
 * the restore may have completed since: what has its final name stays, and so does a VM that runs.
 */
export async function cleanUpRestore(
  dependencies: HostDependencies,
  leaseId: string,
  signal: AbortSignal,
): Promise<void> {
  const { db } = dependencies;
  const restore = await undoUnlessPlacing(db, leaseId); // decided first: no late attempt begins anything after that
  if (!restore) return;
  for (const disk of await listRestoreDisks(db, leaseId)) await stopWriter(dependencies, disk);
  if (restore.phase === 'placing') await finishRestore(dependencies, restore, signal, { requiresAll: false });
  else await undoRestore(dependencies, restore, signal);
}
