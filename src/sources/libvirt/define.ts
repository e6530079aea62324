import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BackupError } from '../../domain/errors.js';
import type { DiskImage, VMDefinition, VMImages, VMSummary } from '../source.js';
import { parseDomain } from './domain.js';
import { readDiskDefinitions } from './disk-definitions.js';
import { restoredDomainXml } from './restored-domain-xml.js';
import { tryVirsh, virsh, virshError, type VirshCall } from './virsh.js';
import { findState, listDomains } from './vm.js';

/** See `Source.listImages`. */
export async function listImages(call: VirshCall, vmId: string): Promise<VMImages> {
  const summary = await findVM(call, vmId);
  if (!summary) throw new BackupError('VMNotFound', `VM ${vmId} is not known to libvirt at ${call.uri}`);
  // What the next start uses: the live definition of a VM that runs may be another one.
  const xml = await virsh(call, ['dumpxml', '--domain', vmId, '--inactive']);
  const definitions = readDiskDefinitions(xml);
  const saved = await virsh(call, ['list', '--all', '--with-managed-save', '--uuid']);
  return {
    ...summary,
    hasSavedState: saved.split(/\s+/).includes(vmId),
    snapshots: linesOf(await virsh(call, ['snapshot-list', '--domain', vmId, '--name'])),
    disks: parseDomain(xml).disks.map(({ key, target, file, format }): DiskImage => {
      const obstacle = definitions.find((disk) => disk.target === target)?.obstacle ?? null;
      return { key, target, file, format: format === 'qcow2' || format === 'raw' ? format : null, obstacle };
    }),
  };
}

/** See `Source.defineVM`. */
export async function defineVM(call: VirshCall, definition: VMDefinition): Promise<void> {
  const { vmId, name } = definition;
  const known = await listDomains(call);
  if (known.some((vm) => vm.vmId === vmId)) return;
  if (known.some((vm) => vm.name === name)) {
    throw new BackupError(
      'AlreadyExists',
      `Expected no VM '${name}' at ${call.uri} yet, found one; choose another name`,
    );
  }
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-define-'));
  try {
    const file = join(directory, 'domain.xml');
    await writeFile(file, restoredDomainXml(definition));
    await virsh(call, ['define', '--file', file]);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** See `Source.takeName`. */
export async function takeName(call: VirshCall, vmId: string, name: string): Promise<void> {
  const known = await listDomains(call);
  if (known.some((vm) => vm.vmId === vmId && vm.name === name)) return;
  const other = known.find((vm) => vm.name === name);
  if (other) {
    if (other.state !== 'shut off') {
      throw new BackupError(
        'VMRunning',
        `VM '${name}' (${other.vmId}) is expected to be shut off before another one takes its name, found it ${other.state}; run 'virsh shutdown ${other.vmId}'`,
      );
    }
    await undefineVM(call, other.vmId);
  }
  await virsh(call, ['domrename', '--domain', vmId, '--new-name', name]);
}

/** See `Source.undefineVM`. Firmware variables that libvirt keeps under the VM's name stay: another VM may have taken it. */
export async function undefineVM(call: VirshCall, vmId: string): Promise<void> {
  const state = await findState(call, vmId);
  if (!state) return;
  const records = ['--managed-save', '--snapshots-metadata', '--checkpoints-metadata', '--keep-nvram'];
  const args = ['undefine', '--domain', vmId, ...records];
  const outcome = await tryVirsh(call, args);
  if (!outcome.ok && outcome.problem !== 'no-domain') throw virshError(call.uri, args, outcome);
}

/** See `Source.startVM`. */
export async function startVM(call: VirshCall, vmId: string): Promise<void> {
  const isUp = async () => ['running', 'paused'].includes((await findState(call, vmId))?.state ?? 'gone');
  if (await isUp()) return;
  // 5 min: a VM with much memory, or with devices that are passed to it, takes its time.
  const args = ['start', '--domain', vmId];
  const outcome = await tryVirsh(call, args, 300_000);
  if (!outcome.ok && !(await isUp())) throw virshError(call.uri, args, outcome);
}

function linesOf(text: string): string[] {
  return text.split('\n').flatMap((line) => line.trim() || []);
}

async function findVM(call: VirshCall, vmId: string): Promise<VMSummary | undefined> {
  return (await listDomains(call)).find((vm) => vm.vmId === vmId);
}
