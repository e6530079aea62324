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

export type DiskPhase =
  'planned' | 'waiting for a port' | 'starting' | 'copying' | 'comparing' | 'copied' | 'complete' | 'failed';

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

export interface BackupProgress extends Progress<DiskProgress> {
  jobId: string;
}

export type RestorePhase = 'planned' | 'writing' | 'verifying' | 'written' | 'complete' | 'failed';

export interface RestoreDiskProgress {
  key: string;
  target: string;
  path: string;
  phase: RestorePhase;
  sizeBytes: number;
  writtenBytes: number;
}

/** One disk's files from a full on; its key is the chain's. */
export interface VerifyDiskProgress {
  key: string;
  target: string;
  phase: 'planned' | 'verifying' | 'good' | 'damaged' | 'failed';
  files: number;
  fileBytes: number;
}

/** What every workflow on disks tells: what it is at, in a few words, and how far each disk is. */
export interface Progress<Disk = { key: string }> {
  step: string;
  disks: Disk[];
}

/**
 * How far a workflow is, as `BackupProgress` or another `Progress`. Bytes of a disk that is worked on stand in the heartbeat of
 * its step, as `DiskHeartbeat`.
 */
export const progressQuery = defineQuery<Progress>('progress');

/** Heartbeat details of a step that works on one disk. */
export interface DiskHeartbeat {
  key: string;
  doneBytes: number;
  totalBytes: number;
  /** What it is at, where the step has several parts. */
  phase?: string;
}
