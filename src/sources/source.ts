import type { Extent } from '../domain/extents.js';

/**
 * What a hypervisor connector promises. One suite, test/contract/source.ts, runs against every connector.
 * Each method may run twice, openSnapshot under another id, and after a crash in mid-call; each may be cancelled by `signal`.
 */
export interface Source {
  /** All VMs that the hypervisor knows, running or not, ordered by name. */
  listVMs(signal: AbortSignal): Promise<VMSummary[]>;

  /** @throws BackupError VMNotFound */
  describeVM(name: string, signal: AbortSignal): Promise<VMDescription>;

  /**
   * Opens one point in time over all the given disks at once, and starts recording changes from it under `snapshotId`.
   * Each attempt has a `snapshotId` of its own; what one that died has left, `closeSnapshot` and `dropChangeIds` remove.
   * A disk whose `baseChangeId` the hypervisor no longer honours is opened whole, with `changedSince: null`.
   * The guest is thawed when this returns or throws.
   * @throws BackupError VMNotFound, VMNotRunning, DiskNotFound, FreezeFailed, GuestAtRisk (before anything is opened), SourceBusy
   * (another snapshot is open: its id, or null, in details.snapshotId)
   */
  openSnapshot(request: OpenSnapshotRequest, signal: AbortSignal): Promise<OpenSnapshot>;

  /** The extents that changed since `changedSince`, normalized, those that became zero included. */
  changedExtents(disk: ChangedDisk, signal: AbortSignal): Promise<Extent[]>;

  /**
   * Ends the snapshot and removes its scratch files; a VM that it left paused by an I/O error is resumed.
   * Nothing to end, or a VM that is gone or shut off, is success. Change ids are kept. Never touches a snapshot with another id.
   */
  closeSnapshot(vmId: string, snapshotId: string, signal: AbortSignal): Promise<void>;

  /** Makes the hypervisor forget change ids, so that recording them costs nothing any more. One that is unknown is success. */
  dropChangeIds(vmId: string, changeIds: readonly string[], signal: AbortSignal): Promise<void>;

  /**
   * All change ids that the hypervisor holds for a VM, in any order: also those that no restore point knows.
   * @throws BackupError VMNotFound; VMNotRunning where only a VM that runs can be asked
   */
  listChangeIds(vmId: string, signal: AbortSignal): Promise<string[]>;

  /** Whether it knows the images of VMs that do not run, and defines new VMs. Where not, the methods below throw SourceFailed. */
  readonly definesVMs: boolean;

  /** The images that a VM's disks are kept in, whether it runs or not. @throws BackupError VMNotFound */
  listImages(vmId: string, signal: AbortSignal): Promise<VMImages>;

  /** The files that each disk of each VM reads, running or not: its image, and all that the image is based on. */
  listImageFiles(signal: AbortSignal): Promise<ImageFiles[]>;

  /**
   * Defines a VM as `vmConfig` says, under another name and id, with these disks alone and no media in its drives. It does not
   * start. One that has this id already is success.
   * @throws BackupError AlreadyExists when another VM has the name
   */
  defineVM(definition: VMDefinition, signal: AbortSignal): Promise<void>;

  /**
   * Gives a VM that is shut off a name. Another one that has it is removed, its disks' images are not; one that has it already
   * is success. @throws BackupError VMRunning when the other one is not shut off
   */
  takeName(vmId: string, name: string, signal: AbortSignal): Promise<void>;

  /** Removes the definition of a VM that is shut off; its disks' images stay. One that is not known is success. */
  undefineVM(vmId: string, signal: AbortSignal): Promise<void>;

  /** Starts a VM. One that runs is success. */
  startVM(vmId: string, signal: AbortSignal): Promise<void>;
}

export interface VMImages extends VMSummary {
  /** Whether it goes on where it was saved when it starts, with what it then held of its disks in memory. */
  hasSavedState: boolean;
  /** Names of the snapshots that the hypervisor has recorded of it. They describe the images as they are now. */
  snapshots: string[];
  disks: DiskImage[];
}

export interface DiskImage {
  key: string;
  target: string;
  /** Null where the disk is no file of its own. */
  file: string | null;
  /** Null where it is neither. */
  format: 'qcow2' | 'raw' | null;
  /** Why a complete image must not take the place of this one: a fact and a next step, for people. Null where it may. */
  obstacle: string | null;
}

export interface ImageFiles {
  vmId: string;
  vmName: string;
  target: string;
  /** Absolute paths. */
  files: string[];
}

export interface VMDefinition {
  vmId: string;
  name: string;
  /** As `openSnapshot` gave it. */
  vmConfig: string;
  /** By the key that the disk has in `vmConfig`. */
  disks: { key: string; file: string; format: 'qcow2' | 'raw' }[];
}

/** What all our change ids begin with: nothing of anybody else's does. */
export const changeIdPrefix = 'backupvm-';

/** The change id that `openSnapshot` makes for a snapshot id; the same for all disks of the snapshot. */
export function changeIdOf(snapshotId: string): string {
  return `${changeIdPrefix}${snapshotId}`;
}

export interface VMSummary {
  /** The name that people use, as `vm` in the input. */
  name: string;
  /** Stable over renames, and another one after the VM is deleted and made anew: libvirt's UUID. */
  vmId: string;
  state: VMState;
}

/** `running` and `paused` VMs can be backed up. */
export type VMState = 'running' | 'paused' | 'shut off' | 'other';

export interface VMDescription extends VMSummary {
  disks: SourceDisk[];
}

export interface SourceDisk {
  /** The serial, else the WWN, else the target (libvirt); the node or device name (QMP). Never a position in a list. */
  key: string;
  /** The name of the disk's place in the VM, such as `vda`. */
  target: string;
  /**
   * What the disk stands on: a file, device, volume or network name, for a file with what tells it from another one under that
   * name. Only compared: another identity under the same key is another disk. Empty where `skipReason` is set.
   */
  identity: string;
  /** The virtual size in bytes; 0 where `skipReason` is set. */
  sizeBytes: number;
  /** Whether the hypervisor can record changes of this disk (QCOW2 can, raw cannot). */
  tracksChanges: boolean;
  /** Whether its image, or one that this is based on, is encrypted: what we read of it is not. */
  isEncrypted: boolean;
  /** Why this disk cannot be backed up, for people: `CD-ROM`, `read-only`, `raw passthrough`, … Null where it can. */
  skipReason: string | null;
}

export interface OpenSnapshotRequest {
  /** A UUID of its own for each attempt: all that the snapshot makes carries it. */
  snapshotId: string;
  vmId: string;
  quiesce: 'auto' | 'require' | 'off';
  /** Reads disks with an iothread also where that may crash the guest; without it they are refused. */
  allowIothreads?: boolean | undefined;
  disks: { key: string; baseChangeId: string | null }[];
}

/** `application`: VSS writers took part; `filesystem`: the guest agent froze the file systems; `crash`: neither. */
export type Consistency = 'application' | 'filesystem' | 'crash';

export interface OpenSnapshot {
  consistency: Consistency;
  /** For people: why a freeze that was tried did not work, which risk was accepted, what the snapshot changes for the VM's owner. */
  warnings: string[];
  /** The VM's definition in the hypervisor's own format (domain XML), kept with the restore point; null where there is none. */
  vmConfig: string | null;
  disks: SnapshotDisk[];
}

/** As much of a disk of an open snapshot as its changes are found by. */
export type ChangedDisk = Pick<SnapshotDisk, 'key' | 'sizeBytes' | 'uri' | 'dirtyContext'>;

export interface SnapshotDisk {
  key: string;
  /** As in `SourceDisk`, read while the snapshot was open already: of the disk that it holds. */
  identity: string;
  sizeBytes: number;
  /** NBD URI of the whole disk at the point in time, readable on the hypervisor's host. Has `base:allocation`. */
  uri: string;
  /** As in SourceDisk, at the moment of the snapshot. */
  isEncrypted: boolean;
  /** The base that was honoured, or null: then only a full can be made. */
  changedSince: string | null;
  /** NBD metadata context that holds what changed since `changedSince`; null where that is null. */
  dirtyContext: string | null;
  /** What to ask with next time; null where the disk does not track changes. */
  changeId: string | null;
}
