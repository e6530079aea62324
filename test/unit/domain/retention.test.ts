import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decideRetention, type RetentionPoint, type RetentionPolicy } from '../../../src/domain/retention.js';
import { berlin, expectDecisions, type RetentionCase } from './retention-case.js';

describe('keep-last', () => {
  test.each<RetentionCase>([
    ['keeps the newest', { keepLast: 1 }, '2026-03-02T12:00Z last | 2026-03-01T12:00Z -'],
    [
      'keeps as many as it says',
      { keepLast: 2 },
      '2026-03-03T12:00Z last | 2026-03-02T12:00Z last | 2026-03-01T12:00Z -',
    ],
    ['keeps all where there are fewer', { keepLast: 5 }, '2026-03-02T12:00Z last | 2026-03-01T12:00Z last'],
    ['keeps exactly all', { keepLast: 2 }, '2026-03-02T12:00Z last | 2026-03-01T12:00Z last'],
    [
      'counts both of two points in one second',
      { keepLast: 1 },
      '2026-03-01T12:00:00.000Z last | 2026-03-01T12:00:00.000Z -',
    ],
    [
      'takes the later of two points in one second',
      { keepLast: 1 },
      '2026-03-01T12:00:00.900Z last | 2026-03-01T12:00:00.100Z -',
    ],
    [
      'keeps both of two points in one second',
      { keepLast: 2 },
      '2026-03-01T12:00:00Z last | 2026-03-01T12:00:00Z last | 2026-03-01T11:59:59Z -',
    ],
    [
      'does not ask how long ago a point was',
      { keepLast: 2 },
      '2026-03-01T12:00Z last | 1999-01-01T00:00Z last | 1998-01-01T00:00Z -',
    ],
  ])('%s', (_behaviour, policy, newestFirst) => expectDecisions(policy, newestFirst));

  test('has nothing to decide where there are no points', () => {
    expect(decideRetention([], { keepLast: 1, timeZone: 'UTC' })).toEqual([]);
  });
});

describe('several rules', () => {
  test.each<RetentionCase>([
    [
      'a day that keep-last covers does not count for keep-daily',
      { keepLast: 1, keepDaily: 2 },
      '2026-03-03T12:00Z last | 2026-03-02T12:00Z daily | 2026-03-01T12:00Z daily | 2026-02-28T12:00Z -',
    ],
    [
      'an older point of a covered day is left to the next rule',
      { keepLast: 1, keepDaily: 1, keepWeekly: 1 },
      '2026-03-08T12:00Z last | 2026-03-08T11:00Z - | 2026-03-07T12:00Z daily | 2026-03-01T12:00Z weekly',
    ],
    [
      'two of one day that keep-last keeps cover one day',
      { keepLast: 2, keepDaily: 1 },
      '2026-03-03T12:00Z last | 2026-03-03T11:00Z last | 2026-03-03T10:00Z - | 2026-03-02T12:00Z daily',
    ],
    [
      'what keep-hourly passes over is gone for keep-daily',
      { keepHourly: 1, keepDaily: 1 },
      '2026-03-03T12:40Z hourly | 2026-03-03T12:10Z -hourly | 2026-03-03T11:00Z - | 2026-03-02T12:00Z daily',
    ],
    [
      'what keep-daily passes over is gone for keep-monthly',
      { keepDaily: 1, keepMonthly: 1 },
      '2026-03-03T12:00Z daily | 2026-03-03T01:00Z -daily | 2026-02-02T12:00Z monthly | 2026-02-01T12:00Z -monthly',
    ],
    [
      'a week that keep-daily covers does not count for keep-weekly',
      { keepDaily: 2, keepWeekly: 2 },
      '2026-03-10T12:00Z daily | 2026-03-08T12:00Z daily | 2026-03-07T12:00Z - | 2026-03-01T12:00Z weekly | 2026-02-22T12:00Z weekly | 2026-02-15T12:00Z -',
    ],
    [
      'keep-weekly goes on where keep-daily ends',
      { keepDaily: 3, keepWeekly: 1 },
      '2026-03-04T12:00Z daily | 2026-03-03T12:00Z daily | 2026-03-02T12:00Z daily | 2026-03-01T12:00Z weekly | 2026-02-28T12:00Z -weekly',
    ],
    [
      'the month of a week that stays is covered',
      { keepWeekly: 1, keepMonthly: 1 },
      '2026-03-10T12:00Z weekly | 2026-03-03T12:00Z - | 2026-02-10T12:00Z monthly | 2026-02-03T12:00Z -monthly',
    ],
    [
      'keep-yearly takes what is left of the years before',
      { keepMonthly: 2, keepYearly: 2 },
      '2026-02-01T12:00Z monthly | 2026-01-01T12:00Z monthly | 2025-07-01T12:00Z yearly | 2025-06-01T12:00Z -yearly | 2024-05-01T12:00Z yearly | 2023-05-01T12:00Z -',
    ],
    [
      'all six, a point each',
      { keepLast: 1, keepHourly: 1, keepDaily: 1, keepWeekly: 1, keepMonthly: 1, keepYearly: 1 },
      '2026-07-15T12:30Z last | 2026-07-15T11:30Z hourly | 2026-07-14T12:00Z daily | 2026-07-12T12:00Z weekly | 2026-06-30T12:00Z monthly | 2025-12-31T12:00Z yearly | 2024-12-31T12:00Z -',
    ],
    [
      'the order is fixed: keep-daily comes before keep-monthly, however it is written',
      { keepMonthly: 1, keepDaily: 1 },
      '2026-03-03T12:00Z daily | 2026-02-02T12:00Z monthly | 2026-02-01T12:00Z -monthly',
    ],
    [
      'across a change of the clock, in Berlin',
      { keepLast: 1, keepHourly: 1, keepDaily: 2, ...berlin },
      '2026-10-25T01:30Z last | 2026-10-25T00:30Z - | 2026-10-24T23:30Z hourly | 2026-10-24T22:30Z - | 2026-10-24T21:30Z daily | 2026-10-23T21:30Z daily',
    ],
    [
      'a week of the year before, and its year',
      { keepWeekly: 1, keepYearly: 2 },
      '2027-01-02T12:00Z weekly | 2026-12-30T12:00Z -weekly | 2026-12-20T12:00Z yearly | 2025-12-20T12:00Z yearly',
    ],
  ])('%s', (_behaviour, policy, newestFirst) => expectDecisions(policy, newestFirst));
});

describe('protected and damaged points', () => {
  const point = (id: string, day: number, more: Partial<RetentionPoint> = {}): RetentionPoint => ({
    ...{ isDamaged: false, protection: null, needs: [] },
    id,
    time: new Date(Date.UTC(2026, 2, day, 12)),
    ...more,
  });
  const held = { protection: 'held: trial' };
  const damaged = { isDamaged: true };
  const decide = (points: RetentionPoint[], policy: Partial<RetentionPolicy> = { keepLast: 1 }) =>
    decideRetention(points, { timeZone: 'UTC', ...policy }).map(
      ({ id, keep, rule }) => `${id} ${keep ? 'keep' : 'remove'} ${rule}`,
    );

  test.each<[behaviour: string, points: RetentionPoint[], policy: Partial<RetentionPolicy>, expected: string[]]>([
    [
      'a protected point stays, and does not count',
      [point('a', 1), point('b', 2, held), point('c', 3)],
      { keepLast: 1 },
      ['c keep keep-last', 'b keep protected', 'a remove none'],
    ],
    [
      'a newest point that is protected does not count either',
      [point('a', 1), point('b', 2), point('c', 3, held)],
      { keepLast: 1 },
      ['c keep protected', 'b keep keep-last', 'a remove none'],
    ],
    [
      'a day with a protected point still counts',
      [point('a', 1), point('b', 2, held), point('c', 2)],
      { keepDaily: 2 },
      ['c keep keep-daily', 'b keep protected', 'a keep keep-daily'],
    ],
    [
      'a damaged point does not count, and goes',
      [point('a', 1), point('b', 2, damaged), point('c', 3)],
      { keepLast: 2 },
      ['c keep keep-last', 'b remove damaged', 'a keep keep-last'],
    ],
    [
      'a damaged point stays while no newer one is good',
      [point('a', 1), point('b', 2), point('c', 3, damaged)],
      { keepLast: 1 },
      ['c keep damaged', 'b keep keep-last', 'a remove none'],
    ],
    [
      'where all are damaged, all stay',
      [point('a', 1, damaged), point('b', 2, damaged)],
      { keepLast: 1 },
      ['b keep damaged', 'a keep damaged'],
    ],
    [
      'a damaged point stays that a good one needs',
      [point('a', 1, damaged), point('b', 2, { needs: ['a'] })],
      { keepLast: 1 },
      ['b keep keep-last', 'a keep damaged'],
    ],
    [
      'a damaged point stays that a good one needs through another that goes',
      [point('a', 1, damaged), point('b', 2, { needs: ['a'] }), point('c', 3, { needs: ['b'] })],
      { keepLast: 1 },
      ['c keep keep-last', 'b remove none', 'a keep damaged'],
    ],
    [
      'what a damaged point needs stays with it',
      [point('a', 1), point('b', 2, { needs: ['a'] }), point('c', 3), point('d', 4, { ...damaged, needs: ['b'] })],
      { keepLast: 1 },
      ['d keep damaged', 'c keep keep-last', 'b keep damaged', 'a keep damaged'],
    ],
    [
      'damaged points that need each other go together',
      [point('a', 1, damaged), point('b', 2, { ...damaged, needs: ['a'] }), point('c', 3)],
      { keepLast: 2 },
      ['c keep keep-last', 'b remove damaged', 'a remove damaged'],
    ],
    [
      'a damaged point that is protected stays for that',
      [point('a', 1, { ...damaged, ...held }), point('b', 2)],
      { keepLast: 1 },
      ['b keep keep-last', 'a keep protected'],
    ],
    [
      'points that need an expired one do not make it stay',
      [point('a', 1), point('b', 2, { needs: ['a'] })],
      { keepLast: 1 },
      ['b keep keep-last', 'a remove none'],
    ],
  ])('%s', (_behaviour, points, policy, expected) => expect(decide(points, policy)).toEqual(expected));

  test('each decision says why', () => {
    const points = [
      point('a', 1),
      point('b', 2, damaged),
      point('c', 3, held),
      point('d', 4),
      { ...point('e', 4), time: new Date('2026-03-04T13:00Z') },
    ];
    const reasons = decideRetention(points, { keepDaily: 1, timeZone: 'UTC' }).map(({ reason }) => reason);
    expect(reasons).toEqual([
      'the newest of 2026-03-04, 1 of 1',
      'a newer point of 2026-03-04 stays',
      'held: trial',
      'damaged, and a newer good point stays',
      'no rule keeps it',
    ]);
  });
});

const count = fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined });
const policies = fc
  .record({
    keepLast: count,
    keepHourly: count,
    keepDaily: count,
    keepWeekly: count,
    keepMonthly: count,
    keepYearly: count,
  })
  .filter((policy) => Object.values(policy).some((value) => value !== undefined));
const histories = fc.array(
  fc.record({ minutes: fc.integer({ min: 0, max: 1_000_000 }), isDamaged: fc.boolean(), isHeld: fc.boolean() }),
  { minLength: 1, maxLength: 40 },
);

test('whatever the policy: a good point stays where there is one, and asking again removes nothing more', () => {
  fc.assert(
    fc.property(policies, histories, (policy, history) => {
      const points = history.map(({ minutes, isDamaged, isHeld }, index) => ({
        ...{ id: `${index}`, time: new Date(Date.UTC(2026, 0, 1, 0, minutes)), isDamaged, needs: [] },
        protection: isHeld ? 'held' : null,
      }));
      const inBerlin = { ...policy, ...berlin };
      const staying = decideRetention(points, inBerlin).flatMap(({ id, keep }) => (keep ? [id] : []));
      const left = points.filter(({ id }) => staying.includes(id));
      expect(left.some(({ isDamaged }) => !isDamaged)).toBe(points.some(({ isDamaged }) => !isDamaged));
      expect(decideRetention(left, inBerlin).every(({ keep }) => keep)).toBe(true);
    }),
  );
});
