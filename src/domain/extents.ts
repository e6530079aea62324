import { BackupError } from './errors.js';

/** A run of bytes of a virtual disk. Both in bytes. */
export interface Extent {
  offset: number;
  length: number;
}

/**
 * Sorts, merges what overlaps or touches, and drops what is empty.
 * @throws BackupError SourceFailed when an extent does not lie within the disk: such a list cannot be trusted at all.
 */
export function normalizeExtents(extents: readonly Extent[], sizeBytes: number): Extent[] {
  const merged: Extent[] = [];
  for (const extent of [...extents].sort((a, b) => a.offset - b.offset)) {
    const end = extent.offset + extent.length;
    if (extent.offset < 0 || extent.length < 0 || !Number.isSafeInteger(end) || end > sizeBytes) {
      throw new BackupError(
        'SourceFailed',
        `Expected changed extents within 0..${sizeBytes}, found offset ${extent.offset} length ${extent.length}`,
      );
    }
    if (extent.length === 0) continue;
    const last = merged.at(-1);
    if (last && extent.offset <= last.offset + last.length) {
      last.length = Math.max(last.offset + last.length, end) - last.offset;
    } else {
      merged.push({ offset: extent.offset, length: extent.length });
    }
  }
  return merged;
}

/** Sum of the lengths, in bytes. */
export function totalBytes(extents: readonly Extent[]): number {
  return extents.reduce((sum, extent) => sum + extent.length, 0);
}

/** What lies in both lists. Both normalized, and so is the result. */
export function intersectExtents(left: readonly Extent[], right: readonly Extent[]): Extent[] {
  const common: Extent[] = [];
  for (let i = 0, j = 0; i < left.length && j < right.length;) {
    const [a, b] = [left[i] as Extent, right[j] as Extent];
    const offset = Math.max(a.offset, b.offset);
    const end = Math.min(a.offset + a.length, b.offset + b.length);
    if (end > offset) common.push({ offset, length: end - offset });
    if (a.offset + a.length < b.offset + b.length) i += 1;
    else j += 1;
  }
  return common;
}

/** The first byte of `wanted` that lies in none of `present`, or undefined when all are covered. Both lists normalized. */
export function firstUncovered(wanted: readonly Extent[], present: readonly Extent[]): number | undefined {
  let index = 0;
  for (const { offset, length } of wanted) {
    let position = offset;
    while (position < offset + length) {
      let candidate = present[index];
      while (candidate && candidate.offset + candidate.length <= position) candidate = present[++index];
      if (!candidate || candidate.offset > position) return position;
      position = candidate.offset + candidate.length;
    }
  }
  return undefined;
}
