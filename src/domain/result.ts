import type { BackupType, PlanReason } from './plan.js';

/** What one disk's backup came to. Sizes in bytes. */
export interface BackupVMDiskResult {
  key: string;
  type: BackupType;
  reason: PlanReason;
  /** The disk's virtual size. */
  sizeBytes: number;
  /** What the source said has to be copied: data of a full, changed extents of an incremental. */
  changedBytes: number;
  /** What the new file itself holds, in whole clusters. */
  writtenBytes: number;
  /** Relative to the repository. */
  path: string;
}

/** The result of BackupVM. */
export interface BackupVMResult {
  jobId: string;
  consistency: 'application' | 'filesystem' | 'crash';
  /** What people should know of it; they stay with the restore point. */
  warnings: string[];
  disks: BackupVMDiskResult[];
}
