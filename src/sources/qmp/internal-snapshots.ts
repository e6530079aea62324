import { changeIdsIn, type BlockGraph, type BlockNode } from './nodes.js';

/**
 * What the owner of a VM with internal snapshots has to know when its images get their first bitmap: QEMU loads none while they have
 * one. `graph` is from before that.
 */
export function warnOfSnapshots(
  graph: BlockGraph,
  vm: string,
  disks: readonly { node: BlockNode; tracksChanges: boolean }[],
): string[] {
  const tracked = disks.filter(({ tracksChanges }) => tracksChanges);
  const snapshots = new Set(tracked.flatMap(({ node }) => node.image.snapshots.map(({ name }) => `'${name}'`)));
  if (snapshots.size === 0 || changeIdsIn(graph).length > 0) return [];
  const names = [...snapshots].join(', ');
  return [
    `VM '${vm}' has internal snapshots (${names}): from now on 'loadvm' fails and leaves the VM stopped, because of the bitmaps of its backups; run 'backupvm vm forget' before you load one`,
  ];
}
