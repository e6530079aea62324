import { defineSearchAttributeKey } from '@temporalio/common';
import { defineQuery } from '@temporalio/workflow';
import type { BackupType, PlanReason } from '../domain/plan.js';

/** The task queue of workflows and of activities that only need the database. */
export const mainQueue = 'backupvm';

/** The queue of a host's copies: its slots are the host's limit. */
export function copyQueue(host: string): string {
  return `${mainQueue}.${host}`;
}

/** The queue of a host's short steps, so that clean-up never waits behind copies. */
export function controlQueue(host: string): string {
  return `${mainQueue}.${host}.control`;
}

export const searchAttributes = {
  vmName: defineSearchAttributeKey('BackupVMName', 'KEYWORD'),
  repository: defineSearchAttributeKey('BackupRepository', 'KEYWORD'),
  type: defineSearchAttributeKey('BackupType', 'KEYWORD'),
  status: defineSearchAttributeKey('BackupStatus', 'KEYWORD'),
};

export type DiskPhase = 'planned' | 'waiting for a port' | 'starting' | 'copying' | 'copied' | 'complete' | 'failed';

export interface DiskProgress {
  key: string;
  target: string;
  type: BackupType;
  reason: PlanReason;
  phase: DiskPhase;
  sizeBytes: number;
  changedBytes: number;
  writtenBytes: number;
}

export interface BackupProgress {
  jobId: string;
  /** What the workflow is at, in a few words. */
  step: string;
  disks: DiskProgress[];
}

/** How far a BackupVM is. Bytes of a copy that runs stand in the heartbeat of its `transferDisk`, as `TransferHeartbeat`. */
export const progressQuery = defineQuery<BackupProgress>('progress');

/** Heartbeat details of `transferDisk`. */
export interface TransferHeartbeat {
  key: string;
  doneBytes: number;
  totalBytes: number;
}
