/** What became of one disk. Sizes in bytes. */
export interface RestoreVMDiskResult {
  key: string;
  target: string;
  /** Absolute, on the repository's host. */
  path: string;
  format: 'qcow2' | 'raw';
  /** The disk's virtual size. */
  sizeBytes: number;
  /** What was written; holes are not. */
  writtenBytes: number;
  /** Blocks that were read back and compared with the hashes of the restore point. */
  verifiedBlocks: number;
  /** Of these, those that differ: none, unless damage was allowed. */
  differentBlocks: number;
}

/** A file that a restore replaced. Paths are absolute, on the repository's host. */
export interface KeptFile {
  id: string;
  path: string;
  keptPath: string;
  /** ISO 8601: when ReconcileHost may remove it. */
  keptUntil: string;
}

/** The result of RestoreVM. */
export interface RestoreVMResult {
  pointId: string;
  /** ISO 8601. */
  pointTime: string;
  /** The VM that was defined, or whose disks were replaced; null where there are files only. */
  vm: { id: string; name: string } | null;
  disks: RestoreVMDiskResult[];
  /** The files that were replaced, and are kept for a while. */
  kept: KeptFile[];
  /** What is not as it was in the VM, for people. */
  warnings: string[];
}
