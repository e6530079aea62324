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
  // Asked before: a frozen agent answers no such question, and VSS thaws by itself after 10 s.
  const agent = await askAgent(call, vmId, state);
  const problem = agent.problem ?? (await freezeGuest(call, vmId, directory));
  if (problem === null) return { consistency: agent.consistency, warnings: [] };
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
  await writeFile(directory.frozen, '', { mode: 0o600 });
  try {
    const outcome = await tryVirsh(call, ['domfsfreeze', '--domain', vmId], freezeTimeoutMs);
    if (outcome.ok) return null;
    // The greeting was not answered, so the command was not sent, and there is nobody to thaw.
    if (outcome.problem === 'no-agent') await rm(directory.frozen, { force: true });
    return reasonIn(outcome.said);
  } catch (error) {
    call.signal?.throwIfAborted();
    if (error instanceof BackupError && error.code === 'ToolFailed') return error.message;
    throw error;
  }
}

interface Agent {
  /** Why there is no use in trying to freeze, or null. */
  problem: string | null;
  /** On Windows the agent freezes through VSS, whose writers put their applications' files in order first. */
  consistency: Consistency;
}

async function askAgent(call: VirshCall, vmId: string, state: DomainState): Promise<Agent> {
  if (state.state === 'paused') return { problem: `the VM is ${state.words}`, consistency: 'crash' };
  const outcome = await tryVirsh(call, ['guestinfo', '--domain', vmId, '--os']);
  const isWindows = outcome.ok && /^os\.id *: *mswindows *$/m.test(outcome.stdout);
  // libvirt greets the agent before each command, with 5 s to answer; an agent that is merely too old for this one may freeze.
  const problem = !outcome.ok && outcome.problem === 'no-agent' ? reasonIn(outcome.said) : null;
  return { problem, consistency: isWindows ? 'application' : 'filesystem' };
}

const reasonIn = (said: string) => said.replaceAll(/^error: /gm, '').replaceAll('\n', ': ');

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
