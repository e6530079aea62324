import type { RetentionPolicy } from './retention.js';

/** What retention says of one restore point. Times in UTC. */
export interface PrunedPoint {
  id: string;
  time: string;
  decision: 'keep' | 'remove';
  /** The rule that decided: `keep-daily` and the like, `protected`, `damaged`, or `none` where no rule keeps the point. */
  rule: string;
  /** Why, in words. */
  reason: string;
}

/** The result of PruneVM. */
export interface PruneVMResult {
  /** Newest first. */
  points: PrunedPoint[];
  warnings: string[];
}

/** What became of one VM. */
export interface PrunedVM {
  vm: string;
  contextId: string;
  /** Null where there is none: then nothing was removed. */
  policy: RetentionPolicy | null;
  /** The child workflow that pruned it; null where there is no policy. */
  workflowId: string | null;
  kept: number;
  removed: number;
  /** Newest first. Null when the points of all VMs are too many for one result: the child workflow has them. */
  points: PrunedPoint[] | null;
  warnings: string[];
  /** Why nothing was removed, or not everything that was to be. */
  error: { code: string; message: string } | null;
}

/** The result of PruneBackups. With `dryRun`, `removed` counts what would be. */
export interface PruneBackupsResult {
  repository: string;
  dryRun: boolean;
  vms: PrunedVM[];
}
