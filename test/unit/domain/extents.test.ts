import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  firstUncovered,
  intersectExtents,
  normalizeExtents,
  totalBytes,
  type Extent,
} from '../../../src/domain/extents.js';

const sizeBytes = 64;
const extent = fc
  .tuple(fc.nat(sizeBytes), fc.nat(12))
  .map(([offset, length]) => ({ offset, length: Math.min(length, sizeBytes - offset) }));
const extents = fc.array(extent, { maxLength: 20 });

/** The model: one flag per byte. */
function bitmapOf(list: readonly Extent[]): boolean[] {
  const bits = new Array<boolean>(sizeBytes).fill(false);
  for (const { offset, length } of list) bits.fill(true, offset, offset + length);
  return bits;
}

describe('normalizeExtents', () => {
  test.each<[string, Extent[], Extent[]]>([
    ['nothing stays nothing', [], []],
    [
      'what is empty is dropped',
      [
        { offset: 5, length: 0 },
        { offset: 64, length: 0 },
      ],
      [],
    ],
    [
      'what touches is joined',
      [
        { offset: 4, length: 4 },
        { offset: 0, length: 4 },
      ],
      [{ offset: 0, length: 8 }],
    ],
    [
      'what lies within another is swallowed',
      [
        { offset: 0, length: 9 },
        { offset: 2, length: 2 },
      ],
      [{ offset: 0, length: 9 }],
    ],
    [
      'a gap of one byte stays',
      [
        { offset: 0, length: 4 },
        { offset: 5, length: 1 },
      ],
      [
        { offset: 0, length: 4 },
        { offset: 5, length: 1 },
      ],
    ],
    ['the whole disk is one extent', [{ offset: 0, length: 64 }], [{ offset: 0, length: 64 }]],
  ])('%s', (_behaviour, list, expected) => {
    expect(normalizeExtents(list, sizeBytes)).toEqual(expected);
  });

  test('covers the same bytes, in order, with gaps between', () => {
    fc.assert(
      fc.property(extents, (list) => {
        const normal = normalizeExtents(list, sizeBytes);
        expect(bitmapOf(normal)).toEqual(bitmapOf(list));
        for (const [index, { offset, length }] of normal.entries()) {
          expect(length).toBeGreaterThan(0);
          expect(normal[index + 1]?.offset ?? Infinity).toBeGreaterThan(offset + length);
        }
        expect(totalBytes(normal)).toBe(bitmapOf(list).filter(Boolean).length);
        expect(normalizeExtents(normal, sizeBytes)).toEqual(normal);
      }),
      { seed: 3 },
    );
  });

  test('leaves the list that it was given as it is', () => {
    const list = [
      { offset: 4, length: 4 },
      { offset: 0, length: 4 },
    ];
    normalizeExtents(list, sizeBytes);
    expect(list).toEqual([
      { offset: 4, length: 4 },
      { offset: 0, length: 4 },
    ]);
  });

  test.each<[string, Extent]>([
    ['ends past the disk', { offset: 60, length: 5 }],
    ['begins past the disk', { offset: 65, length: 0 }],
    ['begins before it', { offset: -1, length: 2 }],
    ['has a negative length', { offset: 8, length: -4 }],
    ['is no number', { offset: Number.NaN, length: 1 }],
    ['is past what a number can hold', { offset: Number.MAX_SAFE_INTEGER, length: 2 }],
  ])('refuses the whole list when an extent %s', (_behaviour, bad) => {
    expect(() => normalizeExtents([{ offset: 0, length: 1 }, bad], sizeBytes)).toThrow(
      expect.objectContaining({
        code: 'SourceFailed',
        message: `Expected changed extents within 0..64, found offset ${bad.offset} length ${bad.length}`,
      }) as Error,
    );
  });
});

describe('firstUncovered', () => {
  test('is the first byte that is wanted and not there', () => {
    fc.assert(
      fc.property(extents, extents, (a, b) => {
        const [wanted, present] = [normalizeExtents(a, sizeBytes), normalizeExtents(b, sizeBytes)];
        const [wantedBits, presentBits] = [bitmapOf(wanted), bitmapOf(present)];
        const expected = wantedBits.findIndex((bit, index) => bit && !presentBits[index]);
        expect(firstUncovered(wanted, present)).toBe(expected === -1 ? undefined : expected);
      }),
      { seed: 3, numRuns: 300 },
    );
  });

  test('is nothing where nothing is wanted', () => {
    expect(firstUncovered([], [])).toBeUndefined();
    expect(firstUncovered([{ offset: 0, length: 1 }], [])).toBe(0);
  });
});

test('intersectExtents is what lies in both lists', () => {
  fc.assert(
    fc.property(extents, extents, (a, b) => {
      const [left, right] = [normalizeExtents(a, sizeBytes), normalizeExtents(b, sizeBytes)];
      const common = intersectExtents(left, right);
      const [leftBits, rightBits] = [bitmapOf(left), bitmapOf(right)];
      expect(bitmapOf(common)).toEqual(leftBits.map((bit, index) => bit && rightBits[index]));
      expect(totalBytes(common)).toBe(bitmapOf(common).filter(Boolean).length); // nothing twice, so that sums are right
    }),
    { seed: 3, numRuns: 300 },
  );
});
