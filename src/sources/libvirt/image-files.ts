import { BackupError } from '../../domain/errors.js';
import { backingChainOf } from '../../qemu/image-features.js';
import type { ImageFiles } from '../source.js';
import { readDiskDefinitions, type DiskDefinition } from './disk-definitions.js';
import { tryVirsh, virsh, type VirshCall } from './virsh.js';
import { listDomains } from './vm.js';

/** See `Source.listImageFiles`. */
export async function listImageFiles(call: VirshCall): Promise<ImageFiles[]> {
  const found: ImageFiles[] = [];
  for (const { vmId, name, state } of await listDomains(call)) {
    // What runs now and what the next start uses may be two definitions. The live one names every backing file.
    const views = state === 'shut off' ? [['--inactive']] : [['--inactive'], []];
    for (const view of views) {
      const xml = await definitionOf(call, vmId, view);
      for (const disk of xml === undefined ? [] : readDiskDefinitions(xml)) {
        found.push({ vmId, vmName: name, target: disk.target, files: await filesOf(call, disk) });
      }
    }
  }
  return found;
}

/** Undefined for a VM that was removed meanwhile. */
async function definitionOf(call: VirshCall, vmId: string, view: string[]): Promise<string | undefined> {
  try {
    return await virsh(call, ['dumpxml', '--domain', vmId, ...view]);
  } catch (error) {
    if (error instanceof BackupError && error.code === 'VMNotFound') return undefined;
    throw error;
  }
}

async function filesOf(call: VirshCall, { file, format, files, volumes }: DiskDefinition): Promise<string[]> {
  const all = new Set(files);
  for (const { pool, volume } of volumes) {
    const path = await tryVirsh(call, ['vol-path', '--pool', pool, '--vol', volume]);
    if (path.ok) all.add(path.stdout.trim()); // a pool that is not active serves no VM
  }
  if (file !== null && format === 'qcow2') {
    for (const backing of await backingChainOf(file, call.signal)) all.add(backing);
  }
  return [...all];
}
