import { listHypervisors } from '../db/hypervisors.js';
import { BackupError } from '../domain/errors.js';
import { imageFeatures } from '../qemu/image-features.js';
import { errorCodeOf } from '../repository/file-errors.js';
import { realpath } from '../repository/file-system.js';
import type { DiskImage, VMImages } from '../sources/source.js';
import type { HostDependencies } from './dependencies.js';
import { resolvedPath } from './restore-paths.js';

/** A disk's image that a restore replaces. */
export interface ReplacedImage {
  key: string;
  target: string;
  /** Without links in it. */
  path: string;
  format: 'qcow2' | 'raw';
}

/**
 * The images that a restore in place replaces. Whoever replaces an image alone leaves all that refers to the old one: the
 * definition, snapshots, other VMs. Where there is such a thing, the VM would read a mixture of the two, so nothing is replaced.
 * @throws BackupError VMRunning, DiskNotFound, TargetUnusable, InUse
 */
export async function replaceableImages(
  dependencies: Pick<HostDependencies, 'db' | 'host' | 'createSource'>,
  vm: VMImages,
  keys: readonly string[],
  signal: AbortSignal,
): Promise<ReplacedImage[]> {
  requireShutOff(vm);
  requireNoSnapshots(vm);
  const images: ReplacedImage[] = [];
  for (const key of keys) {
    const { target, file, format } = imageOf(vm, key);
    const path = await resolvedPath(file);
    if (format === 'qcow2') await requireWholeImage(vm.name, key, path, signal);
    images.push({ key, target, path, format });
  }
  const isOwn = (vmId: string, target: string, path: string) =>
    vmId === vm.vmId && images.some((image) => image.target === target && image.path === path);
  await requireUnused(
    dependencies,
    images.map(({ path }) => path),
    isOwn,
    signal,
  );
  return images;
}

/** @throws BackupError VMRunning: QEMU would go on with the files that are replaced */
export function requireShutOff(vm: { name: string; state: string; hasSavedState: boolean }): void {
  if (vm.state !== 'shut off') throw notShutOff(vm.name, vm.state);
  if (!vm.hasSavedState) return;
  throw new BackupError(
    'VMRunning',
    `VM '${vm.name}' is saved in mid-run, and would resume with disks that are not its own; run 'virsh managedsave-remove ${vm.name}', or start it and shut it down`,
  );
}

export function notShutOff(name: string, state: string): BackupError {
  return new BackupError('VMRunning', `VM '${name}' is ${state}; shut it down, and restore again`);
}

/** A revert, or a snapshot's overlay, would combine the old disks with the restored ones. */
function requireNoSnapshots({ name, snapshots }: VMImages): void {
  if (snapshots.length === 0) return;
  throw new BackupError(
    'TargetUnusable',
    `cannot restore VM '${name}' in place: it has snapshots (${listed(snapshots)}), which belong to the disks as they are now; delete them with 'virsh snapshot-delete' ('virsh blockcommit' first where they are external), or restore to a new VM`,
  );
}

function imageOf(vm: VMImages, key: string): DiskImage & { file: string; format: 'qcow2' | 'raw' } {
  const image = vm.disks.find((disk) => disk.key === key);
  if (!image) {
    const found = vm.disks.map((disk) => `'${disk.key}'`).join(', ') || 'no disk at all';
    throw new BackupError(
      'DiskNotFound',
      `VM '${vm.name}' has no disk '${key}' to replace, only ${found}; name the disks to restore, or restore to files`,
    );
  }
  const { file, format, obstacle } = image;
  if (obstacle !== null) throw irreplaceable(vm.name, key, obstacle);
  if (file !== null && format !== null) return { ...image, file, format };
  throw irreplaceable(vm.name, key, 'it is no QCOW2 or raw file; restore to files');
}

/** What the image itself says, whatever its definition does. */
async function requireWholeImage(vmName: string, key: string, path: string, signal: AbortSignal): Promise<void> {
  const features = await imageFeatures(path, signal);
  if (!features) return; // missing or unreadable: there is nothing in it to mix with
  const { isEncrypted, snapshots, dataFile } = features;
  if (isEncrypted) {
    throw irreplaceable(vmName, key, 'its image is encrypted, and a restored disk is not; restore to a new VM');
  }
  if (snapshots.length > 0) {
    throw irreplaceable(
      vmName,
      key,
      `its image ${path} holds internal snapshots (${listed(snapshots)}), which would be lost; delete them with 'qemu-img snapshot -d', or restore to a new VM`,
    );
  }
  if (dataFile !== null) {
    throw irreplaceable(vmName, key, `its image ${path} keeps its data in ${dataFile}; restore to a new VM`);
  }
}

function irreplaceable(vmName: string, key: string, problem: string): BackupError {
  return new BackupError('TargetUnusable', `cannot replace disk '${key}' of VM '${vmName}': ${problem}`);
}

/**
 * Looks whether a VM of this host reads a file that is about to be replaced or removed, as its disk or as what its disk is
 * based on. `isExempt` says whose use does not matter.
 * @throws BackupError InUse
 */
export async function requireUnused(
  { db, host, createSource }: Pick<HostDependencies, 'db' | 'host' | 'createSource'>,
  paths: readonly string[],
  isExempt: (vmId: string, target: string, path: string, vmName: string) => boolean,
  signal: AbortSignal,
): Promise<void> {
  if (paths.length === 0) return;
  const sources = (await listHypervisors(db)).filter((hypervisor) => hypervisor.host === host).map(createSource);
  for (const source of sources.filter(({ definesVMs }) => definesVMs)) {
    for (const { vmId, vmName, target, files } of await source.listImageFiles(signal)) {
      for (const file of files) {
        const path = await withoutLinks(file);
        if (!paths.includes(path) || isExempt(vmId, target, path, vmName)) continue;
        throw new BackupError(
          'InUse',
          `cannot replace or remove ${path}: disk '${target}' of VM '${vmName}' (${vmId}) uses it, or is based on it; detach it there, or restore elsewhere`,
          { details: { path, vmId } },
        );
      }
    }
  }
}

async function withoutLinks(file: string): Promise<string> {
  try {
    return await realpath(file);
  } catch (error) {
    if (errorCodeOf(error) === undefined) throw error; // it hangs: what it is cannot be told
    return file;
  }
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((name) => `'${name}'`);
  return names.length > 5 ? `${shown.join(', ')} and ${names.length - 5} more` : shown.join(', ');
}
