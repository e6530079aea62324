import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { BackupError } from '../../domain/errors.js';
import { normalizeExtents } from '../../domain/extents.js';
import { mapExport, selectExtents } from '../../nbd/nbdinfo.js';
import type { Source, SourceDisk, VMDescription } from '../source.js';
import { withQMP } from './client.js';
import { findById, findByName, listMachines, summarize, type Machine } from './machines.js';
import { changeIdsIn, disksOf, identityOf, readGraph, type Disk } from './nodes.js';
import { openSnapshot, removeBitmaps, removeSnapshot } from './snapshot.js';

export interface QMPSourceOptions {
  /** `qmp:///path`: a directory of sockets `NAME.qmp`, or one socket. */
  uri: string;
  /**
   * Takes what guests overwrite while a snapshot is open, in a directory per snapshot. We make the files, QEMU opens them:
   * both must run as one user, or QEMU as root.
   */
  scratchDir: string;
}

/** The Source of QEMU processes that nobody else manages: qemu-storage-daemon, or qemu-system without libvirt. */
export function createQMPSource({ uri, scratchDir }: QMPSourceOptions): Source {
  /** A VM that is gone or shut off has nothing open; bitmaps that its files may hold do no harm. */
  async function ifRunning(
    vmId: string,
    signal: AbortSignal,
    work: (machine: Machine) => Promise<void>,
  ): Promise<void> {
    const machine = await findById(uri, vmId, signal);
    if (!machine) return;
    try {
      await work(machine);
    } catch (error) {
      if (!(error instanceof BackupError && error.code === 'VMNotRunning')) throw error;
    }
  }

  /** A QEMU that nobody manages is started by whoever knows how. */
  const definesNone = async (): Promise<never> => {
    throw new BackupError(
      'SourceFailed',
      `${uri} cannot define VMs; restore the disks as files, and start QEMU with them`,
    );
  };

  return {
    async listVMs(signal) {
      const machines = await listMachines(uri);
      return Promise.all(machines.map((machine) => summarize(machine, signal)));
    },

    async describeVM(name, signal): Promise<VMDescription> {
      const machine = await findByName(uri, name);
      const summary = await summarize(machine, signal);
      if (summary.state === 'shut off') return { ...summary, disks: [] };
      const disks = await withQMP(machine.qmpPath, signal, async (qmp) => disksOf(await readGraph(qmp)));
      return { ...summary, disks: await Promise.all(disks.map((disk) => describeDisk(disk, signal))) };
    },

    async openSnapshot(request, signal) {
      const machine = await findById(uri, request.vmId, signal);
      if (!machine)
        throw new BackupError('VMNotFound', `Expected a VM with the id ${request.vmId} at ${uri}, found none`);
      return openSnapshot({ machine, directory: join(scratchDir, request.snapshotId), request, signal });
    },

    async changedExtents({ key, uri: exportURI, sizeBytes, dirtyContext }, signal) {
      if (dirtyContext === null) throw new TypeError(`Expected disk ${key} to have a base, got none: copy it whole`);
      const map = await mapExport(exportURI, dirtyContext, signal);
      return normalizeExtents(
        selectExtents(map, (type) => (type & 1) === 1),
        sizeBytes,
      );
    },

    async closeSnapshot(vmId, snapshotId, signal) {
      const directory = join(scratchDir, snapshotId);
      await ifRunning(vmId, signal, ({ qmpPath }) =>
        withQMP(qmpPath, signal, (qmp) => removeSnapshot(qmp, snapshotId, directory)),
      );
      await rm(directory, { recursive: true, force: true });
    },

    async dropChangeIds(vmId, changeIds, signal) {
      await ifRunning(vmId, signal, ({ qmpPath }) => withQMP(qmpPath, signal, (qmp) => removeBitmaps(qmp, changeIds)));
    },

    async listChangeIds(vmId, signal) {
      const machine = await findById(uri, vmId, signal);
      if (!machine) throw new BackupError('VMNotFound', `cannot find a VM with the id ${vmId} at ${uri}`);
      return withQMP(machine.qmpPath, signal, async (qmp) => changeIdsIn(await readGraph(qmp)));
    },

    definesVMs: false,
    listImages: definesNone,
    listImageFiles: definesNone,
    defineVM: definesNone,
    takeName: definesNone,
    undefineVM: definesNone,
    startVM: definesNone,
  };
}

async function describeDisk({ node, ...disk }: Disk, signal: AbortSignal): Promise<SourceDisk> {
  return { ...disk, identity: node && disk.skipReason === null ? await identityOf(node, signal) : '' };
}
