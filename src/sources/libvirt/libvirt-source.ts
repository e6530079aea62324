import { BackupError } from '../../domain/errors.js';
import { normalizeExtents, type Extent } from '../../domain/extents.js';
import { mapExport, selectExtents } from '../../nbd/nbdinfo.js';
import type { Source, SourceDisk, VMDescription, VMSummary } from '../source.js';
import { endBackupJob, resumeAfterFullScratch } from './backup-job.js';
import { listChangeIds } from './change-ids.js';
import { dropCheckpoint } from './checkpoints.js';
import { defineVM, listImages, startVM, takeName, undefineVM } from './define.js';
import { encryptedTargets } from './disk-definitions.js';
import { parseDomain } from './domain.js';
import { thaw } from './freeze.js';
import { listImageFiles } from './image-files.js';
import { exists, jobDirectory, removeJobDirectory } from './job-directory.js';
import { diskIdentity } from './disk-identity.js';
import { openSnapshot, type LibvirtOptions } from './open.js';
import { virsh, type VirshCall } from './virsh.js';
import { diskSizeBytes, findState, listDomains } from './vm.js';

const dirty = 1; // the only flag of a dirty bitmap's NBD context

/** The connector for QEMU/KVM hosts under libvirt 7.2 or newer, on the host itself: pull-mode backups, read over a Unix socket. */
export function createLibvirtSource(options: LibvirtOptions): Source {
  const { uri, scratchDir } = options;
  return {
    async listVMs(signal): Promise<VMSummary[]> {
      return listDomains({ uri, signal });
    },

    async describeVM(name, signal): Promise<VMDescription> {
      const call = { uri, signal };
      const summary = (await listDomains(call)).find((vm) => vm.name === name);
      if (!summary) throw new BackupError('VMNotFound', `VM '${name}' is not known to libvirt at ${uri}`);
      return { ...summary, disks: await describeDisks(call, summary.vmId) };
    },

    async openSnapshot(request, signal) {
      return openSnapshot(options, request, signal);
    },

    async changedExtents(disk, signal): Promise<Extent[]> {
      if (disk.dirtyContext === null)
        throw new TypeError(`Expected disk '${disk.key}' to have a base that was honoured`);
      const map = await mapExport(disk.uri, disk.dirtyContext, signal);
      return normalizeExtents(
        selectExtents(map, (type) => (type & dirty) !== 0),
        disk.sizeBytes,
      );
    },

    async closeSnapshot(vmId, snapshotId, signal): Promise<void> {
      const call = { uri, signal };
      const directory = jobDirectory(scratchDir, snapshotId);
      try {
        await thaw(uri, vmId, directory);
      } finally {
        await endBackupJob(call, vmId, directory); // also where the guest cannot be thawed: its scratch files would grow meanwhile
      }
      // The directory goes last: while it is there, a VM that is paused by an I/O error may be so because of us.
      if (!(await exists(directory.root))) return;
      const state = await findState(call, vmId);
      if (state) await resumeAfterFullScratch(call, vmId, state.words);
      await removeJobDirectory(directory);
    },

    async dropChangeIds(vmId, changeIds, signal): Promise<void> {
      for (const changeId of changeIds) await dropCheckpoint({ uri, signal }, vmId, changeId);
    },

    listChangeIds: (vmId, signal) => listChangeIds({ uri, signal }, vmId),

    definesVMs: true,
    listImages: (vmId, signal) => listImages({ uri, signal }, vmId),
    listImageFiles: (signal) => listImageFiles({ uri, signal }),
    defineVM: (definition, signal) => defineVM({ uri, signal }, definition),
    takeName: (vmId, name, signal) => takeName({ uri, signal }, vmId, name),
    undefineVM: (vmId, signal) => undefineVM({ uri, signal }, vmId),
    startVM: (vmId, signal) => startVM({ uri, signal }, vmId),
  };
}

async function describeDisks(call: VirshCall, vmId: string): Promise<SourceDisk[]> {
  const xml = await virsh(call, ['dumpxml', '--domain', vmId]);
  const encrypted = encryptedTargets(xml);
  const described: SourceDisk[] = [];
  for (const disk of parseDomain(xml).disks) {
    const { key, target, tracksChanges, skipReason } = disk;
    const sizeBytes = skipReason === null ? await diskSizeBytes(call, vmId, target) : 0;
    const identity = skipReason === null ? await diskIdentity(disk, call.signal) : '';
    const isEncrypted = encrypted.has(target);
    described.push({ key, target, identity, sizeBytes, tracksChanges, isEncrypted, skipReason });
  }
  return described;
}
