import { dirname, join } from 'node:path';
import type { Database } from '../db/database.js';
import { listDisks, type BackupDisk } from '../db/disks.js';
import { getHypervisor, type Hypervisor } from '../db/hypervisors.js';
import { listRepositories } from '../db/repositories.js';
import { findRestore, insertRestore, listRestoreDisks, type RestoreDisk } from '../db/restores.js';
import { chooseDisks } from '../domain/choose-disks.js';
import { BackupError } from '../domain/errors.js';
import { restoredFileName } from '../domain/names.js';
import type { RestoreTarget } from '../domain/restore-input.js';
import type { ImageFormat } from '../qemu/convert.js';
import { requireRepository } from '../repository/marker.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { notShutOff, replaceableImages, requireUnused } from './in-place.js';
import { getJobRows, requireHost, type JobRows } from './job-rows.js';
import { measureRestore } from './restore-source.js';
import { allowedDirectory, requireLasting } from './restore-dirs.js';
import { pathsFor, requireOutside, requireSpace, usableDirectory, type RestorePaths } from './restore-paths.js';

export interface PrepareRestoreInput {
  leaseId: string;
  pointId: string;
  target: RestoreTarget;
  hypervisorId: string | null;
  /** Of the VM that is to be defined, so that a second attempt finds it. */
  newVMId: string;
  disks: string[] | undefined;
  overwrite: boolean;
  allowDamaged: boolean;
  /** How long the files that are replaced are kept; 0: no longer than until it is done. */
  keepReplacedSeconds: number;
}

/** A disk that is about to be restored. */
export interface PreparedDisk {
  restoreDiskId: string;
  key: string;
  target: string;
  path: string;
  format: ImageFormat;
  sizeBytes: number;
}

export interface PreparedRestore {
  vm: { id: string; name: string } | null;
  disks: PreparedDisk[];
  warnings: string[];
}

/** Where a disk goes, and in which format. */
type Place = { disk: BackupDisk; format: ImageFormat } & RestorePaths;
interface Plan {
  vm: { id: string; name: string } | null;
  places: Place[];
}

export function createPrepareRestoreActivities(dependencies: HostDependencies) {
  const { db, host, createSource } = dependencies;
  return {
    /**
     * Looks whether a restore may begin, and writes down what it will make. Makes nothing itself, and may run twice.
     * @throws BackupError what stands in its way, the same before anything was written
     */
    async prepareRestore(input: PrepareRestoreInput): Promise<PreparedRestore> {
      return heartbeating(async (signal) => {
        const rows = await getJobRows(db, input.pointId);
        requireHost(host, rows.repository);
        const all = await listDisks(db, input.pointId);
        const known = await findRestore(db, input.leaseId);
        if (known) {
          const vm = known.vmId !== null && known.vmName !== null ? { id: known.vmId, name: known.vmName } : null;
          return prepared(vm, all, await listRestoreDisks(db, input.leaseId));
        }
        requirePoint(rows);
        await requireRepository(rows.repository.path, rows.repository.id);
        const named = all.map((disk) => ({ key: disk.diskKey, target: disk.target, skipReason: null, disk }));
        const chosen = chooseDisks({ name: rows.context.vmName, disks: named }, input.disks).map(({ disk }) => disk);
        if (!input.allowDamaged) requireUndamaged(chosen);
        const plan = await planFor(input, rows, chosen, signal);
        await requireRoom(db, rows, plan.places, { allowDamaged: input.allowDamaged, signal });
        const restore = {
          ...{ leaseId: input.leaseId, jobId: input.pointId, target: input.target.kind, overwrite: input.overwrite },
          keepReplacedSeconds: input.keepReplacedSeconds,
          ...{ hypervisorId: input.hypervisorId, vmId: plan.vm?.id ?? null, vmName: plan.vm?.name ?? null },
        };
        const newDisks = plan.places.map(({ disk, path, attemptPath, keptPath, format }) => {
          return { backupDiskId: disk.id, path, attemptPath, keptPath, format };
        });
        return prepared(plan.vm, all, await insertRestore(db, restore, newDisks, host));
      });
    },
  };

  async function planFor(
    input: PrepareRestoreInput,
    rows: JobRows,
    chosen: BackupDisk[],
    signal: AbortSignal,
  ): Promise<Plan> {
    const { target } = input;
    if (target.kind === 'files') {
      return { vm: null, places: await placesIn(target.directory, rows.context.vmName, target.format) };
    }
    if (input.hypervisorId === null) throw new TypeError(`Expected a hypervisor for a restore to a ${target.kind}`);
    const hypervisor = await getHypervisor(db, input.hypervisorId);
    requireHost(host, hypervisor);
    if (!createSource(hypervisor).definesVMs) {
      throw new BackupError(
        'TargetUnusable',
        `Hypervisor '${hypervisor.name}' (${hypervisor.kind}) cannot define VMs, nor tell the images of one that is shut off; restore to files, and start QEMU with them`,
      );
    }
    if (target.kind === 'in-place') return planInPlace(input, rows, hypervisor, chosen, signal);
    requireDefinition(rows);
    await requireFreeName(hypervisor, target.name, input.overwrite, signal);
    const vm = { id: input.newVMId, name: target.name };
    return { vm, places: await placesIn(target.directory, target.name, 'qcow2') };

    async function placesIn(path: string, vmName: string, format: ImageFormat): Promise<Place[]> {
      const directory = await usableDirectory(await allowedDirectory(dependencies, path));
      const places: Place[] = [];
      for (const disk of chosen) {
        const file = join(directory, restoredFileName(vmName, disk.target, format));
        const { leaseId, overwrite } = input;
        const paths = await pathsFor(file, { leaseId, target: disk.target, overwrite }, signal);
        places.push({ disk, format, ...paths });
      }
      const replaced = places.flatMap(({ path: file, keptPath }) => (keptPath === null ? [] : [file]));
      // The VM that gives up its name to the new one gives up its disks as well.
      const isReplaced = (name: string) => target.kind === 'vm' && name === target.name;
      await requireUnused(dependencies, replaced, (_vmId, _target, _path, name) => isReplaced(name), signal);
      return places;
    }
  }

  async function planInPlace(
    { leaseId }: PrepareRestoreInput,
    { context }: JobRows,
    hypervisor: Hypervisor,
    chosen: BackupDisk[],
    signal: AbortSignal,
  ): Promise<Plan> {
    const vm = await createSource(hypervisor).listImages(context.vmId, signal);
    const keys = chosen.map(({ diskKey }) => diskKey);
    const places: Place[] = [];
    for (const { key, path, format } of await replaceableImages(dependencies, vm, keys, signal)) {
      const disk = chosen.find(({ diskKey }) => diskKey === key);
      if (!disk) throw new TypeError(`Expected disk '${key}' among those to restore`);
      await requireLasting(await usableDirectory(dirname(path)));
      const paths = await pathsFor(path, { leaseId, target: disk.target, overwrite: true }, signal);
      places.push({ disk, format, ...paths });
    }
    return { vm: { id: vm.vmId, name: vm.name }, places };
  }

  async function requireFreeName(
    hypervisor: Hypervisor,
    name: string,
    overwrite: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const found = (await createSource(hypervisor).listVMs(signal)).find((vm) => vm.name === name);
    if (!found) return;
    if (found.state !== 'shut off') throw notShutOff(found.name, found.state);
    if (overwrite) return;
    throw new BackupError(
      'AlreadyExists',
      `Expected no VM '${name}' on hypervisor '${hypervisor.name}' yet, found one (${found.vmId}); choose another name, or say overwrite`,
    );
  }
}

function requirePoint({ job }: JobRows): void {
  if (job.status === 'complete') return;
  throw new BackupError(
    'PointNotFound',
    `Expected restore point ${job.id}, found it ${job.status}; choose another one`,
  );
}

function requireUndamaged(disks: readonly BackupDisk[]): void {
  const damaged = disks.find(({ damage }) => damage !== null);
  if (!damaged) return;
  throw new BackupError(
    'PointDamaged',
    `Disk '${damaged.diskKey}' of restore point ${damaged.jobId} is damaged: ${damaged.damage ?? ''}; choose an earlier point, or allow damage to restore what is left`,
  );
}

function requireDefinition({ job }: JobRows): void {
  if (job.vmConfig !== null) return;
  throw new BackupError(
    'TargetUnusable',
    `Restore point ${job.id} keeps no definition of its VM, so that none can be defined; restore to files`,
  );
}

/** @throws BackupError TargetUnusable in a repository, TargetFull, PointDamaged when a file of the chain cannot be read */
async function requireRoom(
  db: Database,
  { job, repository }: JobRows,
  places: readonly Place[],
  { allowDamaged, signal }: { allowDamaged: boolean; signal: AbortSignal },
): Promise<void> {
  const repositories = (await listRepositories(db)).filter(({ host }) => host === repository.host);
  const files: { path: string; requiredBytes: number }[] = [];
  for (const { disk, path, format } of places) {
    await requireOutside(path, repositories);
    try {
      const requiredBytes = await measureRestore(db, repository.path, disk, { format, allowDamaged, signal });
      files.push({ path, requiredBytes });
    } catch (error) {
      // A qemu-img that was killed, or took too long, says nothing about the file.
      if (!(error instanceof BackupError && error.code === 'ToolFailed' && 'exitCode' in (error.details ?? {}))) {
        throw error;
      }
      throw new BackupError(
        'PointDamaged',
        `The files of disk '${disk.diskKey}' of restore point ${job.id} cannot be read: ${error.message}; run 'backupvm verify --point ${job.id}'`,
        { cause: error },
      );
    }
  }
  await requireSpace(files);
}

function prepared(
  vm: PreparedRestore['vm'],
  all: readonly BackupDisk[],
  restored: readonly RestoreDisk[],
): PreparedRestore {
  const encrypted = all.filter(({ id, wasEncrypted }) => {
    return wasEncrypted && restored.some(({ backupDiskId }) => backupDiskId === id);
  });
  const warnings = encrypted.map(
    ({ diskKey }) => `disk '${diskKey}' was encrypted in the VM, and is restored in clear`,
  );
  return { vm, disks: describe(all, restored), warnings };
}

function describe(all: readonly BackupDisk[], disks: readonly RestoreDisk[]): PreparedDisk[] {
  return disks
    .map(({ id, backupDiskId, path, format }) => {
      const disk = all.find((one) => one.id === backupDiskId);
      if (!disk) throw new TypeError(`Expected backup disk ${backupDiskId} of restore disk ${id}, found no such row`);
      const { diskKey: key, target, sizeBytes } = disk;
      return { restoreDiskId: id, key, target, path, format, sizeBytes };
    })
    .sort((a, b) => a.target.localeCompare(b.target));
}

export type PrepareRestoreActivities = ReturnType<typeof createPrepareRestoreActivities>;
