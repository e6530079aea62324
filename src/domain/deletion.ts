import { BackupError } from './errors.js';

/** What becomes of restore points that need one that is deleted. */
export type Descendants = 'refuse' | 'delete' | 'merge';

/** One disk of a restore point, as a link of its chain. */
export interface ChainDisk {
  id: string;
  jobId: string;
  parentId: string | null;
}

/** A run of consecutive disks, oldest first, whose data go into the one that needs them. */
export interface PlannedMerge {
  memberIds: string[];
  successorId: string;
}

/** Which restore points go, and what has to be merged before. */
export interface DeletionPlan {
  jobIds: string[];
  merges: PlannedMerge[];
}

/**
 * Decides what the deletion of some restore points takes: `disks` are those of all restore points of the context.
 * @throws BackupError HasDescendants, which names who needs them
 */
export function planDeletion(
  disks: readonly ChainDisk[],
  jobIds: readonly string[],
  descendants: Descendants,
): DeletionPlan {
  const going = new Set(jobIds);
  const byId = new Map(disks.map((disk) => [disk.id, disk]));
  const isGoing = (disk: ChainDisk | undefined): disk is ChainDisk => disk !== undefined && going.has(disk.jobId);
  const parentOf = ({ parentId }: ChainDisk) => (parentId === null ? undefined : byId.get(parentId));
  const left = () => disks.filter((disk) => !going.has(disk.jobId) && isGoing(parentOf(disk)));

  if (descendants === 'refuse') requireNoDescendants(left());
  if (descendants === 'delete') {
    for (let needing = left(); needing.length > 0; needing = left()) for (const { jobId } of needing) going.add(jobId);
  }
  const merges = left().map((successor) => {
    const memberIds: string[] = [];
    for (let member = parentOf(successor); isGoing(member); member = parentOf(member)) memberIds.unshift(member.id);
    return { memberIds, successorId: successor.id };
  });
  requireNoBranches(merges);
  return { jobIds: [...going], merges };
}

function requireNoDescendants(needing: readonly ChainDisk[]): void {
  if (needing.length === 0) return;
  const ids = [...new Set(needing.map(({ jobId }) => jobId))];
  throw new BackupError(
    'HasDescendants',
    `Expected that nobody needs what is to be deleted, found ${ids.length} restore point(s) that do: ${ids.join(', ')}; delete them as well with descendants 'delete', or keep them with 'merge'`,
    { details: { pointIds: ids } },
  );
}

/** A merge changes the file of its oldest member: nobody else may build upon any of them. */
function requireNoBranches(merges: readonly PlannedMerge[]): void {
  const seen = new Set<string>();
  for (const id of merges.flatMap(({ memberIds }) => memberIds)) {
    if (seen.has(id)) throw new TypeError(`Expected one file upon backup disk ${id}, found several`);
    seen.add(id);
  }
}
