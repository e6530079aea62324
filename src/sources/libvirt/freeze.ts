import { rm, writeFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../../domain/errors.js';
import type { Consistency, OpenSnapshotRequest } from '../source.js';
import { exists, type JobDirectory } from './job-directory.js';
import { tryVirsh, type VirshCall } from './virsh.js';
import type { DomainState } from './vm.js';

// A guest flushes its caches before it is frozen; one that needs longer than a minute would be still for too long anyway.
const freezeTimeoutMs = 60_000;

export interface Freeze {
  consistency: Consistency;
  warnings: string[];
}

/**
 * Freezes the guest's file systems through the guest agent, after noting in the directory that it does.
 * Whatever comes of it, the caller must call `thaw`.
 * @throws BackupError FreezeFailed, when `quiesce` is `require`
 */
export async function freeze(
  call: VirshCall,
  request: OpenSnapshotRequest,
  state: DomainState,
  directory: JobDirectory,
): Promise<Freeze> {
  const { vmId, quiesce } = request;
  if (quiesce === 'off') return { consistency: 'crash', warnings: [] };
  const problem = state.state === 'paused' ? `the VM is ${state.words}` : await freezeGuest(call, vmId, directory);
  if (problem === null) return { consistency: await frozenConsistency(call, vmId), warnings: [] };
  if (quiesce === 'require') {
    throw new BackupError(
      'FreezeFailed',
      `Guest of VM ${vmId} could not be frozen, but 'quiesce' is 'require': ${problem}; start the QEMU guest agent in it, or use 'auto'`,
    );
  }
  return { consistency: 'crash', warnings: [`Guest of VM ${vmId} was not frozen: ${problem}`] };
}

/** Why the guest is not frozen, or null when it is. */
async function freezeGuest(call: VirshCall, vmId: string, directory: JobDirectory): Promise<string | null> {
  await writeFile(directory.frozen, '');
  try {
    const outcome = await tryVirsh(call, ['domfsfreeze', '--domain', vmId], freezeTimeoutMs);
    if (outcome.ok) return null;
    // libvirt greets the agent before each command, with 5 s to answer: no answer, no freeze, and nobody to thaw it.
    if (outcome.problem === 'no-agent') await rm(directory.frozen, { force: true });
    return outcome.said.replaceAll(/^error: /gm, '').replaceAll('\n', ': ');
  } catch (error) {
    call.signal?.throwIfAborted();
    if (error instanceof BackupError && error.code === 'ToolFailed') return error.message;
    throw error;
  }
}

/** On Windows the agent freezes through VSS, whose writers put their applications' files in order first. */
async function frozenConsistency(call: VirshCall, vmId: string): Promise<Consistency> {
  const outcome = await tryVirsh(call, ['guestinfo', '--domain', vmId, '--os']);
  return outcome.ok && /^os\.id *: *mswindows *$/m.test(outcome.stdout) ? 'application' : 'filesystem';
}

/**
 * Thaws a guest that this snapshot froze, also in an attempt that died since; one that it did not freeze is left alone.
 * Never cancelled: a frozen guest hangs at its next write.
 * @throws BackupError SourceFailed when the guest may still be frozen
 */
export async function thaw(uri: string, vmId: string, directory: JobDirectory): Promise<void> {
  if (!(await exists(directory.frozen))) return;
  let said = '';
  // After a freeze that took too long, libvirt and the agent are still busy with it: the first attempts may have to wait.
  for (let attempt = 1; attempt <= 5; attempt++) {
    const outcome = await tryVirsh({ uri }, ['domfsthaw', '--domain', vmId], freezeTimeoutMs).catch(
      (error: unknown) => {
        if (error instanceof BackupError && error.code === 'ToolFailed') {
          return { ok: false as const, problem: 'other' as const, said: error.message };
        }
        throw error;
      },
    );
    if (outcome.ok || outcome.problem === 'not-running' || outcome.problem === 'no-domain') {
      return rm(directory.frozen, { force: true });
    }
    said = outcome.said;
    await wait(1000);
  }
  throw new BackupError(
    'SourceFailed',
    `Guest of VM ${vmId} may still be frozen, expected 'virsh domfsthaw' to succeed, found: ${said}; run 'virsh domfsthaw ${vmId}'`,
  );
}
