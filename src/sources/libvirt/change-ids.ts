import { BackupError } from '../../domain/errors.js';
import { imageBitmaps } from '../../qemu/image-bitmaps.js';
import { changeIdPrefix } from '../source.js';
import { parseDomain } from './domain.js';
import { virsh, type VirshCall } from './virsh.js';
import { findState } from './vm.js';

/** See `Source.listChangeIds`. A bitmap whose checkpoint libvirt has forgotten is found in its image. */
export async function listChangeIds(call: VirshCall, vmId: string): Promise<string[]> {
  if (!(await findState(call, vmId))) {
    throw new BackupError('VMNotFound', `VM ${vmId} is not known to libvirt at ${call.uri}`);
  }
  const found = new Set(await listCheckpoints(call, vmId));
  for (const { file, format } of parseDomain(await virsh(call, ['dumpxml', '--domain', vmId])).disks) {
    const bitmaps = file !== null && format === 'qcow2' ? await imageBitmaps(file, call.signal) : [];
    for (const name of bitmaps.filter((bitmap) => bitmap.startsWith(changeIdPrefix))) found.add(name);
  }
  return [...found];
}

/** Our checkpoints of a VM, by name. */
async function listCheckpoints(call: VirshCall, vmId: string): Promise<string[]> {
  const names = (await virsh(call, ['checkpoint-list', '--domain', vmId, '--name'])).split('\n');
  return names.map((name) => name.trim()).filter((name) => name.startsWith(changeIdPrefix));
}

/**
 * What the owner of a VM with internal snapshots has to know when it gets its first checkpoint: QEMU reverts to no snapshot while an
 * image has a bitmap, and libvirt has stopped the VM by then.
 */
export async function warnOfSnapshots(call: VirshCall, vmId: string, name: string): Promise<string[]> {
  const list = await virsh(call, ['snapshot-list', '--domain', vmId, '--internal', '--name']);
  const snapshots = list.split('\n').filter((line) => line.trim() !== '');
  if (snapshots.length === 0 || (await listCheckpoints(call, vmId)).length > 0) return [];
  const names = snapshots.map((snapshot) => `'${snapshot.trim()}'`).join(', ');
  return [
    `VM '${name}' has internal snapshots (${names}): from now on 'virsh snapshot-revert' fails and leaves the VM shut off, because of the checkpoints of its backups; run 'backupvm vm forget' before a revert`,
  ];
}
