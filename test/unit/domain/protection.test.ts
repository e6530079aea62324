import { describe, expect, test } from 'vitest';
import {
  findProtection,
  requireLaterEnd,
  requireUnprotected,
  type PointProtection,
} from '../../../src/domain/protection.js';

const now = new Date('2026-11-23T12:00:00Z');
const later = new Date('2026-11-24T12:00:00Z');
const earlier = new Date('2026-11-22T12:00:00Z');
const open = { name: 'main', immutableUntil: null };

/** A full, two incrementals upon it, and another full. */
function points(changes: Record<string, Partial<PointProtection>> = {}): PointProtection[] {
  const chain: Record<string, string[]> = { full: [], second: ['full'], third: ['second'], other: [] };
  return Object.entries(chain).map(([id, parentIds]) => ({
    ...{ id, hold: null, immutableUntil: null, parentIds },
    ...changes[id],
  }));
}

describe('a restore point', () => {
  test.each<[string, Record<string, Partial<PointProtection>>, string, string | null]>([
    ['nobody protects may go', {}, 'full', null],
    ['that is held stays', { second: { hold: 'audit' } }, 'second', 'it is held: audit'],
    [
      'that a held one needs stays',
      { third: { hold: 'audit' } },
      'full',
      'restore point third, which needs it, is held: audit',
    ],
    ['that needs a held one may go', { full: { hold: 'audit' } }, 'third', null],
    ['of another chain may go', { third: { hold: 'audit' } }, 'other', null],
    [
      'that is immutable stays',
      { other: { immutableUntil: later } },
      'other',
      'it is immutable until 2026-11-24T12:00:00.000Z',
    ],
    [
      'that an immutable one needs stays',
      { third: { immutableUntil: later } },
      'second',
      'restore point third, which needs it, is immutable until 2026-11-24T12:00:00.000Z',
    ],
    ['that was immutable until now may go', { other: { immutableUntil: now } }, 'other', null],
    ['that was immutable may go', { other: { immutableUntil: earlier } }, 'other', null],
    ['that was immutable and is held stays', { other: { immutableUntil: earlier, hold: '' } }, 'other', 'it is held: '],
  ])('%s', (_what, changes, id, expected) => {
    expect(findProtection({ repository: open, points: points(changes) }, id, now)).toBe(expected);
  });

  test.each([
    [later, `repository 'main' is immutable until 2026-11-24T12:00:00.000Z`],
    [now, null],
    [earlier, null],
  ])('in a repository that is immutable until %s', (immutableUntil, expected) => {
    const repository = { ...open, immutableUntil };
    expect(findProtection({ repository, points: points() }, 'other', now)).toBe(expected);
  });
});

test('what is protected is refused as a whole, and each is named', () => {
  const facts = { repository: open, points: points({ third: { hold: 'audit' }, other: { hold: 'law' } }) };
  expect(() => requireUnprotected(facts, ['full', 'other'], now)).toThrow(
    expect.objectContaining({
      code: 'Protected',
      message: expect.stringMatching(/point full: .* held: audit; restore point other: it is held: law/) as string,
    }),
  );
  expect(() => requireUnprotected(facts, [], now)).not.toThrow();
});

test.each([
  ['a first one', null, later, null],
  ['a later one', later, new Date('2026-12-01T00:00:00Z'), null],
  ['the same one', later, later, null],
  ['an earlier one', later, new Date('2026-11-24T11:59:59Z'), 'Protected'],
  ['one after an end that has passed', earlier, new Date('2026-11-23T12:00:01Z'), null],
  ['this very moment', null, now, 'InvalidInput'],
  ['the past', later, earlier, 'InvalidInput'],
])('%s as the end of immutability', (_what, current, until, code) => {
  const check = () => requireLaterEnd('restore point x', current, until, now);
  if (code === null) expect(check).not.toThrow();
  else expect(check).toThrow(expect.objectContaining({ code }));
});
