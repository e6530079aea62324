/** Why a disk is copied whole, or (`parent_good`) why not. Stored, shown, and never worded anew. */
export const planReasons = {
  parent_good: 'changed blocks since the last restore point',
  requested: 'a full was asked for',
  first_backup: 'the first backup of this VM',
  other_repository: 'the first backup of this VM in this repository',
  vm_recreated: 'another VM under the name of an earlier one',
  disk_added: 'the disk is new',
  disk_replaced: 'another image stands where the disk was',
  disk_grown: 'the disk grew',
  disk_shrunk: 'the disk shrank',
  no_change_tracking: 'the hypervisor cannot record changes of this disk',
  change_id_lost: 'the hypervisor no longer knows what changed',
  change_ids_forgotten: 'the hypervisor was told to forget what changed',
  parent_missing: 'the file of the last restore point is missing',
  parent_changed: 'the file of the last restore point is not as it was written',
  parent_damaged: 'a verification found the last restore point damaged',
  restored_in_place: 'the disk was replaced by a restore',
  chain_cap: 'the chain has reached its longest length',
  merged: 'earlier restore points were merged into it',
} as const;

export type PlanReason = keyof typeof planReasons;
export type BackupType = 'full' | 'incremental';

/** What is known of one disk before its copy is planned. Sizes in bytes. */
export interface DiskFacts {
  key: string;
  target: string;
  /** What the disk stands on, as the source says it. */
  identity: string;
  sizeBytes: number;
  tracksChanges: boolean;
  /** The newest restore point of this disk in this context. */
  parent: ParentFacts | null;
}

export interface ParentFacts {
  diskId: string;
  identity: string;
  sizeBytes: number;
  changeId: string | null;
  isDamaged: boolean;
  isRestoredOver: boolean;
  /** A person had the hypervisor forget the change id. */
  isForgotten: boolean;
  /** Files that a restore of it reads: 1 for a full. */
  chainLength: number;
}

/** What the backup was asked to be. */
export interface RequestedPlan {
  type: 'auto' | BackupType;
  /** The most files that a restore may have to read. */
  maxChainLength?: number | undefined;
}

/** What is known of the VM's earlier backups. */
export interface ContextFacts {
  hasPoints: boolean;
  /** The same VM has restore points in another repository. */
  inOtherRepository: boolean;
  /** Another VM of this name has restore points in this repository. */
  nameWasAnotherVM: boolean;
}

/** One disk's share of a backup. `parentId` and `baseChangeId` are set for incrementals only. */
export interface DiskPlan {
  key: string;
  target: string;
  identity: string;
  sizeBytes: number;
  type: BackupType;
  reason: PlanReason;
  parentId: string | null;
  baseChangeId: string | null;
}

/** Decides full or incremental for one disk, by the first rule that applies. */
export function planDisk(disk: DiskFacts, context: ContextFacts, requested: RequestedPlan): DiskPlan {
  const reason = reasonFor(disk, context, requested);
  const { key, target, identity, sizeBytes } = disk;
  const plan = { key, target, identity, sizeBytes, reason };
  return reason === 'parent_good' && disk.parent
    ? { ...plan, type: 'incremental', parentId: disk.parent.diskId, baseChangeId: disk.parent.changeId }
    : { ...plan, type: 'full', parentId: null, baseChangeId: null };
}

function reasonFor(disk: DiskFacts, context: ContextFacts, requested: RequestedPlan): PlanReason {
  const { parent } = disk;
  if (requested.type === 'full') return 'requested';
  if (!parent) {
    if (context.hasPoints) return 'disk_added';
    if (context.nameWasAnotherVM) return 'vm_recreated';
    return context.inOtherRepository ? 'other_repository' : 'first_backup';
  }
  if (parent.isDamaged) return 'parent_damaged';
  if (parent.isRestoredOver) return 'restored_in_place';
  if (!disk.tracksChanges) return 'no_change_tracking';
  // A bitmap travels inside its image: the image that stands there now may have a good one, of another disk. A serial is no
  // proof either, since a cloned image can be attached under it.
  if (disk.identity !== parent.identity) return 'disk_replaced';
  // Dirty bitmaps say nothing of the part that came or went.
  if (disk.sizeBytes > parent.sizeBytes) return 'disk_grown';
  if (disk.sizeBytes < parent.sizeBytes) return 'disk_shrunk';
  if (parent.isForgotten) return 'change_ids_forgotten';
  if (parent.changeId === null) return 'change_id_lost';
  if (parent.chainLength >= (requested.maxChainLength ?? Infinity)) return 'chain_cap';
  return 'parent_good';
}

/** The same disk as a full: what a disk's trouble makes of an incremental. */
export function asFull(plan: DiskPlan, reason: PlanReason): DiskPlan {
  return { ...plan, type: 'full', reason, parentId: null, baseChangeId: null };
}
