import { dirname } from 'node:path';
import { forgetChangeIds, getDisk } from '../db/disks.js';
import { getHypervisor } from '../db/hypervisors.js';
import { getJob } from '../db/jobs.js';
import { beginKeeping } from '../db/kept-disks.js';
import {
  beginPlacing,
  findRestore,
  leaseGone,
  listReplacedChangeIds,
  listRestoreDisks,
  recordPlaced,
  type Restore,
  type RestoreDisk,
} from '../db/restores.js';
import { BackupError } from '../domain/errors.js';
import type { KeptFile } from '../domain/restore-result.js';
import { syncDirectory } from '../repository/durable.js';
import { errorCodeOf } from '../repository/file-errors.js';
import { link, rename, rm } from '../repository/file-system.js';
import { removeFile } from '../repository/files.js';
import type { Source } from '../sources/source.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { replaceableImages, requireShutOff } from './in-place.js';
import { keepReplaced } from './kept-disks.js';
import { requireStillAllowed } from './restore-dirs.js';
import { atTarget, fileAt } from './restore-paths.js';

export function createPlaceRestoreActivities(dependencies: HostDependencies) {
  return {
    /** Gives every disk its final name, and the new VM its own, once all of them are written. May run twice. */
    async placeRestore(input: { leaseId: string }): Promise<KeptFile[]> {
      return heartbeating(async (signal) => {
        const restore = await findRestore(dependencies.db, input.leaseId);
        if (!restore) throw leaseGone(input.leaseId);
        if (restore.phase === 'writing') await decide(dependencies, restore, signal);
        return finishRestore(dependencies, restore, signal, { requiresAll: true });
      });
    },

    /** Starts the VM that was restored. One that runs is success. */
    async startRestoredVM(input: { hypervisorId: string; vmId: string }): Promise<void> {
      await heartbeating(async (signal) => {
        const hypervisor = await getHypervisor(dependencies.db, input.hypervisorId);
        await dependencies.createSource(hypervisor).startVM(input.vmId, signal);
      });
    },
  };
}

/** The last look, and the decision: until it is recorded the restore is undone, after that it is finished. */
async function decide(dependencies: HostDependencies, restore: Restore, signal: AbortSignal): Promise<void> {
  const { db } = dependencies;
  const disks = await listRestoreDisks(db, restore.leaseId);
  const unwritten = disks.find(({ status }) => status !== 'written');
  if (unwritten) throw new TypeError(`Expected ${unwritten.attemptPath} written, found it ${unwritten.status}`);
  for (const { path, keptPath } of disks) {
    await requireStillAllowed(dependencies, restore.target, dirname(path));
    if (keptPath !== null || !(await fileAt(path))) continue;
    throw new BackupError(
      'AlreadyExists',
      `Expected no file ${path} yet, found that somebody made one during the restore; it was left as it is`,
    );
  }
  const vm = vmOf(restore);
  if (vm) {
    if (restore.target === 'in-place') await requireReplaceable(dependencies, vm, disks, signal);
    else await define(dependencies, restore, vm, disks, signal);
  }
  await beginPlacing(db, restore);
}

/** The same look as before the restore was written: hours have passed since, in which somebody may have changed the VM. */
async function requireReplaceable(
  dependencies: HostDependencies,
  vm: RestoredVM,
  disks: readonly RestoreDisk[],
  signal: AbortSignal,
): Promise<void> {
  const source = await sourceOf(dependencies, vm);
  const keys: string[] = [];
  for (const { backupDiskId } of disks) keys.push((await getDisk(dependencies.db, backupDiskId)).diskKey);
  const images = await replaceableImages(dependencies, await source.listImages(vm.vmId, signal), keys, signal);
  for (const [index, { path }] of disks.entries()) {
    const image = images.find(({ key }) => key === keys[index]);
    if (image?.path === path) continue;
    throw new BackupError(
      'TargetUnusable',
      `cannot replace disk '${keys[index] ?? ''}' of VM '${vm.vmName}': its definition named ${path} when the restore began, and names ${image?.path ?? 'nothing'} now; restore again`,
    );
  }
}

interface RestoredVM {
  hypervisorId: string;
  vmId: string;
  vmName: string;
}

function vmOf({ hypervisorId, vmId, vmName }: Restore): RestoredVM | undefined {
  return hypervisorId === null || vmId === null || vmName === null ? undefined : { hypervisorId, vmId, vmName };
}

async function sourceOf({ db, createSource }: HostDependencies, { hypervisorId }: RestoredVM) {
  return createSource(await getHypervisor(db, hypervisorId));
}

/** Defined before its disks are in place: what the hypervisor refuses can be undone then. It takes the name last. */
async function define(
  dependencies: HostDependencies,
  restore: Restore,
  { hypervisorId, vmId, vmName }: RestoredVM,
  disks: readonly RestoreDisk[],
  signal: AbortSignal,
): Promise<void> {
  const { db } = dependencies;
  const source = await sourceOf(dependencies, { hypervisorId, vmId, vmName });
  const other = (await source.listVMs(signal)).find((known) => known.name === vmName && known.vmId !== vmId);
  if (other && other.state !== 'shut off') requireShutOff({ ...other, hasSavedState: false });
  const { vmConfig } = await getJob(db, restore.jobId);
  if (vmConfig === null) throw new TypeError(`Expected the definition of a VM in point ${restore.jobId}, found none`);
  const files: { key: string; file: string; format: 'qcow2' | 'raw' }[] = [];
  for (const { backupDiskId, path: file, format } of disks) {
    files.push({ key: (await getDisk(db, backupDiskId)).diskKey, file, format });
  }
  const name = other && restore.overwrite ? waitingName(vmName, vmId) : vmName;
  await source.defineVM({ vmId, name, vmConfig, disks: files }, signal);
}

/**
 * Finishes a restore that was decided upon, whatever of it has been done: names, the VM's name, what the hypervisor recorded of
 * replaced disks, and at last the files that were replaced. Safe to repeat. The files decide what is left to do, not the rows: with an
 * older database the restore may have completed long ago, and its VM may run.
 * @param requiresAll whether a restored disk that is nowhere is an error; clean-up cannot bring it back, and must come to an end
 * @returns the replaced files that are kept
 * @throws BackupError VMRunning, TargetUnusable, InUse when a VM whose disks are about to be replaced was started or changed
 */
export async function finishRestore(
  dependencies: HostDependencies,
  restore: Restore,
  signal: AbortSignal,
  { requiresAll }: { requiresAll: boolean },
): Promise<KeptFile[]> {
  const { db } = dependencies;
  const disks = await listRestoreDisks(db, restore.leaseId);
  const unplaced = disks.filter(({ status }) => status !== 'placed');
  const vm = vmOf(restore);
  const source = vm ? await sourceOf(dependencies, vm) : undefined;
  const unfinished = await listUnfinished(unplaced);
  if (vm && restore.target === 'in-place' && unfinished.length > 0) {
    await requireReplaceable(dependencies, vm, unfinished, signal);
  }
  for (const disk of unplaced) {
    await keepReplaced(dependencies, restore, disk);
    await atTarget(disk.path, () => place(disk, requiresAll));
    await recordPlaced(db, disk.id);
  }
  if (vm && source && restore.target === 'vm') await takeName(source, vm, signal);
  if (vm && source && restore.target === 'in-place') {
    const replaced = await listReplacedChangeIds(db, { leaseId: restore.leaseId, ...vm });
    for (const { contextId, changeId } of replaced) {
      await source.dropChangeIds(vm.vmId, [changeId], signal);
      await forgetChangeIds(db, contextId, [changeId]);
    }
  }
  return settleReplaced(dependencies, restore, disks);
}

/** From here on the time runs for which the replaced files are kept; without one, they go now. */
async function settleReplaced(
  dependencies: HostDependencies,
  restore: Restore,
  disks: readonly RestoreDisk[],
): Promise<KeptFile[]> {
  for (const disk of disks) {
    const { path, keptPath } = disk;
    if (restore.keepReplacedSeconds > 0) {
      await keepReplaced(dependencies, restore, disk); // no file stays without a row, also with the rows of an older database
    } else if (keptPath !== null && (await atTarget(path, () => fileAt(path)))) {
      await removeFile(keptPath);
    }
  }
  const kept = await beginKeeping(dependencies.db, restore.leaseId);
  return kept.map(({ id, path, keptPath, keptUntil }) => {
    if (keptUntil === null) throw new TypeError(`Expected the time of kept disk ${id} to run, found none`);
    return { id, path, keptPath, keptUntil: keptUntil.toISOString() };
  });
}

/** The disks whose unfinished file is still there: it goes when its disk gets its name. */
async function listUnfinished(disks: readonly RestoreDisk[]): Promise<RestoreDisk[]> {
  const found: RestoreDisk[] = [];
  for (const disk of disks) if (await atTarget(disk.path, () => fileAt(disk.attemptPath))) found.push(disk);
  return found;
}

/** The name that the VM waited for with one of its own. A VM that has got it, was renamed by somebody, or is gone, is left alone. */
async function takeName(source: Source, { vmId, vmName }: RestoredVM, signal: AbortSignal): Promise<void> {
  const own = (await source.listVMs(signal)).find((vm) => vm.vmId === vmId);
  if (own?.name === waitingName(vmName, vmId)) await source.takeName(vmId, vmName, signal);
}

/** Of a VM that is to replace another one of its name. */
const waitingName = (vmName: string, vmId: string) => `${vmName}.${vmId}`;

/** At any moment either the old file or the new one has the name. Safe to repeat, also after a crash between any two of these. */
async function place({ path, attemptPath, keptPath }: RestoreDisk, requiresAll: boolean): Promise<void> {
  if (await fileAt(attemptPath)) {
    if (keptPath === null) {
      await giveName(attemptPath, path);
      await rm(attemptPath, { force: true });
    } else {
      if (!(await fileAt(keptPath)) && (await fileAt(path))) await giveName(path, keptPath);
      await rename(attemptPath, path);
    }
  } else if (!(await fileAt(path))) {
    if (!requiresAll) return;
    throw new TypeError(`Expected the restored disk at ${attemptPath}, or at ${path}, found it at neither`);
  }
  await syncDirectory(dirname(path));
}

/** Gives a file another name, never over one that is there. Where links are not known, the file loses its own. */
async function giveName(file: string, name: string): Promise<void> {
  try {
    await link(file, name);
  } catch (error) {
    const code = errorCodeOf(error);
    if (code === 'EPERM' || code === 'ENOTSUP' || code === 'EOPNOTSUPP') return rename(file, name);
    if (code !== 'EEXIST') throw error;
    if ((await fileAt(name))?.ino === (await fileAt(file))?.ino) return;
    throw new BackupError(
      'AlreadyExists',
      `Expected no file ${name}, found one that somebody made as the restored disk was to get its name; move it away`,
    );
  }
}

/**
 * What a restore has written that is not decided upon: gone, and a VM that it defined, too. Never a file that has its final name. Safe to
 * repeat.
 */
export async function undoRestore(
  dependencies: HostDependencies,
  restore: Restore,
  signal: AbortSignal,
): Promise<void> {
  const disks = await listRestoreDisks(dependencies.db, restore.leaseId);
  const vm = vmOf(restore);
  // Before the files: without them the VM would look as if the restore had completed.
  if (vm && restore.target === 'vm') await undefineUnplaced(await sourceOf(dependencies, vm), vm, disks, signal);
  for (const { path, attemptPath } of disks) await atTarget(path, () => rm(attemptPath, { force: true }));
}

/**
 * Undefines the VM of a restore that is undone. It was defined, if at all, when every disk was written and none had its name: one that
 * runs, or whose unfinished files are gone, was completed after the rows of an older database.
 */
async function undefineUnplaced(
  source: Source,
  { vmId }: RestoredVM,
  disks: readonly RestoreDisk[],
  signal: AbortSignal,
): Promise<void> {
  const own = (await source.listVMs(signal)).find((vm) => vm.vmId === vmId);
  if (own?.state !== 'shut off') return;
  for (const { path, attemptPath } of disks) {
    if ((await atTarget(path, () => fileAt(attemptPath))) === undefined) return;
  }
  await source.undefineVM(vmId, signal); // by its id, which no other VM has: it was made for this restore
}

export type PlaceRestoreActivities = ReturnType<typeof createPlaceRestoreActivities>;
