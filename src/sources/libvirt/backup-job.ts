import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../../domain/errors.js';
import { parseBackupSocket } from './backup-xml.js';
import type { JobDirectory } from './job-directory.js';
import { tryVirsh, virsh, virshError, type VirshCall } from './virsh.js';

/** What long operation libvirt has open on a VM. It allows one at a time. */
export type RunningJob = { kind: 'none' } | { kind: 'backup'; socket: string | null } | { kind: 'other'; name: string };

/**
 * Asks for the open job. `backup-begin` would find out too, but only after 30 s of waiting for the state change lock,
 * with the guest frozen.
 */
export async function runningJob(call: VirshCall, vmId: string): Promise<RunningJob> {
  const info = await tryVirsh(call, ['domjobinfo', '--domain', vmId]);
  if (!info.ok) {
    if (info.problem === 'not-running' || info.problem === 'no-domain') return { kind: 'none' };
    throw virshError(call.uri, ['domjobinfo', vmId], info);
  }
  if (/^Job type: +None/m.test(info.stdout)) return { kind: 'none' };
  const operation = /^Operation: +(.+?) *$/m.exec(info.stdout)?.[1] ?? 'unknown';
  if (operation !== 'Backup') return { kind: 'other', name: operation };
  const dump = await tryVirsh(call, ['backup-dumpxml', '--domain', vmId]);
  if (dump.ok) return { kind: 'backup', socket: parseBackupSocket(dump.stdout) };
  if (dump.problem === 'no-job' || dump.problem === 'not-running') return { kind: 'none' }; // it ended between the two calls
  throw virshError(call.uri, ['backup-dumpxml', vmId], dump);
}

/** Ours is known by its socket: the path holds the snapshot id, and survives a restart of libvirtd. */
export function isOurs(job: RunningJob, directory: JobDirectory): boolean {
  return job.kind === 'backup' && job.socket === directory.socket;
}

/** Of a backup job that looks like one of ours: see `jobDirectory`. */
function snapshotIdOf(socket: string | null): string | null {
  return /\/([0-9a-f-]{36})\/io\/nbd\.sock$/.exec(socket ?? '')?.[1] ?? null;
}

/** The refusal that names whose job is in the way. */
export function busyError(vmId: string, job: RunningJob): BackupError {
  const found =
    job.kind === 'backup'
      ? `a backup job of somebody else, at ${job.socket ?? 'no socket'}`
      : `the operation '${job.kind === 'other' ? job.name : 'none'}'`;
  const socket = job.kind === 'backup' ? job.socket : null;
  return new BackupError(
    'SourceBusy',
    `VM ${vmId} is expected to have no open job, found ${found}; wait for it, or end it with 'virsh domjobabort ${vmId}'`,
    { details: { snapshotId: snapshotIdOf(socket) } },
  );
}

/**
 * Ends the backup job of this snapshot, which is the normal end of a pull backup, and returns when it has ended.
 * No job, or one of somebody else, is success, and left alone.
 */
export async function endBackupJob(call: VirshCall, vmId: string, directory: JobDirectory): Promise<void> {
  if (!isOurs(await runningJob(call, vmId), directory)) return;
  const args = ['domjobabort', '--domain', vmId];
  const outcome = await tryVirsh(call, args);
  if (!outcome.ok && !['no-job', 'not-running', 'no-domain'].includes(outcome.problem)) {
    throw virshError(call.uri, args, outcome);
  }
  // QEMU cancels one block job per disk: a matter of milliseconds, unless a disk's storage hangs.
  const deadline = Date.now() + 60_000;
  while (isOurs(await runningJob(call, vmId), directory)) {
    if (Date.now() > deadline) {
      throw new BackupError('SourceFailed', `Backup job of VM ${vmId} at ${directory.socket} did not end within 60 s`);
    }
    await wait(50, undefined, { signal: call.signal });
  }
}

/** Lets a guest go on that QEMU stopped because a scratch file could not grow. A VM paused for another reason stays so. */
export async function resumeAfterFullScratch(call: VirshCall, vmId: string, words: string): Promise<void> {
  if (words === 'paused (I/O error)') await virsh(call, ['resume', '--domain', vmId]);
}
