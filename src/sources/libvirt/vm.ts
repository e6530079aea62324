import { BackupError } from '../../domain/errors.js';
import type { VMState, VMSummary } from '../source.js';
import { stateOf } from './domain.js';
import { tryVirsh, virsh, virshError, type VirshCall } from './virsh.js';

/** All domains, ordered by name. Two calls, however many there are. */
export async function listDomains(call: VirshCall): Promise<VMSummary[]> {
  const states = parseStates(await virsh(call, ['domstats', '--state', '--raw']));
  const list = await virsh(call, ['list', '--all', '--uuid', '--name']);
  return list
    .split('\n')
    .map((line) => /^([0-9a-f-]{36}) +(.+?) *$/.exec(line.trim()))
    .filter((match) => match !== null)
    .map(([, vmId = '', name = '']) => ({ vmId, name, state: states.get(name) ?? ('other' as const) }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** `Domain: 'web01'` and, somewhere below it, `state.state=1`. */
function parseStates(domstats: string): Map<string, VMState> {
  const states = new Map<string, VMState>();
  let name: string | undefined;
  for (const line of domstats.split('\n')) {
    name = /^Domain: '(.*)'$/.exec(line)?.[1] ?? name;
    const number = /^\s*state\.state=(\d+)$/.exec(line)?.[1];
    if (name !== undefined && number !== undefined) states.set(name, stateOf(number));
  }
  return states;
}

export interface DomainState {
  state: VMState;
  /** As libvirt says it: `paused (I/O error)`. */
  words: string;
}

/** What the VM does now, or null for a VM that libvirt does not know. */
export async function findState(call: VirshCall, vmId: string): Promise<DomainState | null> {
  const args = ['domstate', '--domain', vmId, '--reason'];
  const outcome = await tryVirsh(call, args);
  if (outcome.ok) {
    const words = outcome.stdout.trim();
    return { words, state: stateOf(words.replace(/ \(.*/, '')) };
  }
  if (outcome.problem === 'no-domain') return null;
  throw virshError(call.uri, args, outcome);
}

/** @throws BackupError VMNotFound, VMNotRunning: only QEMU can open a point in time, so there must be one */
export async function requireRunning(call: VirshCall, vmId: string): Promise<DomainState> {
  const found = await findState(call, vmId);
  if (!found) throw new BackupError('VMNotFound', `VM ${vmId} is not known to libvirt at ${call.uri}`);
  if (found.state === 'running' || found.state === 'paused') return found;
  throw new BackupError(
    'VMNotRunning',
    `VM ${vmId} is expected to be running or paused, found '${found.words}'; start it with 'virsh start ${vmId}', or with 'virsh start --paused ${vmId}' to keep its guest from running, and back it up again`,
  );
}

/** The virtual size of a disk, exactly. */
export async function diskSizeBytes(call: VirshCall, vmId: string, target: string): Promise<number> {
  const stdout = await virsh(call, ['domblkinfo', '--domain', vmId, '--device', target]);
  const capacity = /^Capacity: +(\d+)$/m.exec(stdout)?.[1];
  if (capacity === undefined) {
    throw new BackupError(
      'SourceFailed',
      `Expected virsh domblkinfo to tell the capacity of disk ${target} of VM ${vmId} in bytes, found '${stdout.trim()}'`,
    );
  }
  return Number(capacity);
}
