import { readFile } from 'node:fs/promises';

/** What happened to the disks of one VM, in order: a write, or a crash after which they were read anew. */
export type Change = { disk: number; offset: number; bytes: Buffer } | { contents: Buffer[] };

const blockBytes = 4096;

/**
 * All that a guest has done to its disks. A restore point must be what they held between two of its changes: the same two for
 * all disks.
 */
export interface History {
  /** Changes up to here have been asked for. */
  length: () => number;
  add: (change: Change) => void;
  /** Forgets what was before a change: no later point can be of that time. */
  forgetBefore: (index: number) => void;
  /** Where in the history these files are; undefined when nowhere: they are damaged. */
  find: (files: readonly string[], upTo: number) => Promise<number | undefined>;
}

export function startHistory(sizesBytes: readonly number[]): History {
  const base = sizesBytes.map((size) => Buffer.alloc(size));
  let firstIndex = 0;
  const changes: Change[] = [];

  return {
    length: () => firstIndex + changes.length,
    add: (change) => changes.push(change),
    forgetBefore(index) {
      for (const change of changes.splice(0, Math.max(0, index - firstIndex))) {
        apply(base, change);
        firstIndex += 1;
      }
    },
    async find(files, upTo) {
      const found = await Promise.all(files.map((file) => readFile(file)));
      if (found.some((bytes, disk) => bytes.length !== base[disk]?.length)) return undefined;
      const state = base.map((bytes) => Buffer.from(bytes));
      const differing = state.map((_, disk) => differingBlocks(state, found, disk));
      for (let index = firstIndex; ; index += 1) {
        if (differing.every((blocks) => blocks.size === 0)) return index;
        const change = changes[index - firstIndex];
        if (!change || index >= upTo) return undefined;
        apply(state, change);
        if ('contents' in change) state.forEach((_, disk) => (differing[disk] = differingBlocks(state, found, disk)));
        else compareAgain(state, found, change, differing[change.disk] ?? new Set());
      }
    },
  };
}

function apply(state: Buffer[], change: Change): void {
  if ('contents' in change) change.contents.forEach((bytes, disk) => bytes.copy(state[disk] ?? Buffer.alloc(0)));
  else change.bytes.copy(state[change.disk] ?? Buffer.alloc(0), change.offset);
}

function differingBlocks(state: readonly Buffer[], found: readonly Buffer[], disk: number): Set<number> {
  const blocks = Math.ceil((state[disk]?.length ?? 0) / blockBytes);
  const numbers = Array.from({ length: blocks }, (_, block) => block);
  return new Set(numbers.filter((block) => !isSame(state, found, disk, block)));
}

function compareAgain(
  state: readonly Buffer[],
  found: readonly Buffer[],
  { disk, offset, bytes }: { disk: number; offset: number; bytes: Buffer },
  differing: Set<number>,
): void {
  const last = Math.floor((offset + bytes.length - 1) / blockBytes);
  for (let block = Math.floor(offset / blockBytes); block <= last; block += 1) {
    if (isSame(state, found, disk, block)) differing.delete(block);
    else differing.add(block);
  }
}

function isSame(state: readonly Buffer[], found: readonly Buffer[], disk: number, block: number): boolean {
  const [start, end] = [block * blockBytes, (block + 1) * blockBytes];
  const [expected, actual] = [state[disk]?.subarray(start, end), found[disk]?.subarray(start, end)];
  return expected !== undefined && actual !== undefined && Buffer.compare(expected, actual) === 0;
}
