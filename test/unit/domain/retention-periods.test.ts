import { describe, test } from 'vitest';
import { berlin, expectDecisions, kiritimati, marquesas, newYork, type RetentionCase } from './retention-case.js';

describe('keep-hourly', () => {
  test.each<RetentionCase>([
    [
      'keeps the newest of an hour',
      { keepHourly: 2 },
      '2026-03-01T12:50Z hourly | 2026-03-01T12:10Z -hourly | 2026-03-01T11:59Z hourly | 2026-03-01T11:00Z -hourly | 2026-03-01T10:59Z -',
    ],
    [
      'separates 12:00:00 from 11:59:59',
      { keepHourly: 2 },
      '2026-03-01T12:00:00Z hourly | 2026-03-01T11:59:59Z hourly',
    ],
    [
      'keeps one of two points in one second',
      { keepHourly: 2 },
      '2026-03-01T12:00:00Z hourly | 2026-03-01T12:00:00Z -hourly',
    ],
    [
      'does not count hours without points',
      { keepHourly: 3 },
      '2026-03-05T12:00Z hourly | 2026-03-03T02:00Z hourly | 2026-01-01T00:00Z hourly | 2025-12-31T23:00Z -',
    ],
    ['tells the same hour of two days apart', { keepHourly: 2 }, '2026-03-02T12:30Z hourly | 2026-03-01T12:30Z hourly'],
    [
      'begins its hours at half past, half an hour off UTC',
      { keepHourly: 2, ...marquesas },
      '2026-03-01T12:40Z hourly | 2026-03-01T12:30Z -hourly | 2026-03-01T12:20Z hourly | 2026-03-01T11:30Z -hourly | 2026-03-01T11:29Z -',
    ],
    [
      'begins its hours at a quarter past in Kathmandu',
      { keepHourly: 2, timeZone: 'Asia/Kathmandu' },
      '2026-03-01T12:15Z hourly | 2026-03-01T12:14Z hourly | 2026-03-01T11:15Z -hourly',
    ],
    [
      'takes the hour that comes twice for one, in Berlin',
      { keepHourly: 3, ...berlin },
      '2026-10-25T02:30Z hourly | 2026-10-25T01:30Z hourly | 2026-10-25T00:30Z -hourly | 2026-10-24T23:30Z hourly',
    ],
    [
      'takes the hour that comes twice for one, in New York',
      { keepHourly: 3, ...newYork },
      '2026-11-01T07:30Z hourly | 2026-11-01T06:30Z hourly | 2026-11-01T05:30Z -hourly | 2026-11-01T04:30Z hourly',
    ],
    [
      'misses nothing where an hour is left out, in Berlin',
      { keepHourly: 2, ...berlin },
      '2026-03-29T01:00Z hourly | 2026-03-29T00:59Z hourly | 2026-03-28T23:59Z -',
    ],
    [
      'misses nothing where an hour is left out, in New York',
      { keepHourly: 2, ...newYork },
      '2026-03-08T07:10Z hourly | 2026-03-08T06:50Z hourly | 2026-03-08T05:50Z -',
    ],
    [
      'copes with half an hour that comes twice, on Lord Howe',
      { keepHourly: 3, timeZone: 'Australia/Lord_Howe' },
      '2026-04-04T15:40Z hourly | 2026-04-04T15:10Z hourly | 2026-04-04T14:40Z -hourly | 2026-04-04T14:10Z -hourly | 2026-04-04T13:50Z hourly',
    ],
  ])('%s', (_behaviour, policy, newestFirst) => expectDecisions(policy, newestFirst));
});

describe('keep-daily', () => {
  test.each<RetentionCase>([
    [
      'keeps the newest of a day',
      { keepDaily: 2 },
      '2026-03-02T23:59Z daily | 2026-03-02T00:00Z -daily | 2026-03-01T23:59Z daily | 2026-02-28T23:59Z -',
    ],
    [
      'does not count days without points',
      { keepDaily: 3 },
      '2026-03-09T12:00Z daily | 2026-03-05T12:00Z daily | 2026-02-01T12:00Z daily | 2026-01-31T12:00Z -',
    ],
    [
      'keeps all where there are fewer days',
      { keepDaily: 7 },
      '2026-03-02T12:00Z daily | 2026-03-01T12:00Z daily | 2026-03-01T11:00Z -daily',
    ],
    [
      'knows the 29th of February',
      { keepDaily: 3 },
      '2028-03-01T12:00Z daily | 2028-02-29T12:00Z daily | 2028-02-28T12:00Z daily | 2028-02-27T12:00Z -',
    ],
    [
      'begins its day at 22:00 UTC in a summer of Berlin',
      { keepDaily: 2, ...berlin },
      '2026-07-01T22:00Z daily | 2026-07-01T21:59Z daily | 2026-06-30T22:00Z -daily | 2026-06-30T21:59Z -',
    ],
    [
      'begins its day at 23:00 UTC in a winter of Berlin',
      { keepDaily: 2, ...berlin },
      '2026-01-10T23:00Z daily | 2026-01-10T22:59Z daily | 2026-01-09T23:00Z -daily',
    ],
    [
      'has a day of 23 hours in Berlin',
      { keepDaily: 2, ...berlin },
      '2026-03-29T21:59Z daily | 2026-03-28T23:00Z -daily | 2026-03-28T22:59Z daily',
    ],
    [
      'has a day of 25 hours in Berlin',
      { keepDaily: 2, ...berlin },
      '2026-10-25T22:59Z daily | 2026-10-24T22:00Z -daily | 2026-10-24T21:59Z daily',
    ],
    [
      'has a day of 23 hours in New York',
      { keepDaily: 2, ...newYork },
      '2026-03-09T03:59Z daily | 2026-03-08T05:00Z -daily | 2026-03-08T04:59Z daily',
    ],
    [
      'has a day of 25 hours in New York',
      { keepDaily: 2, ...newYork },
      '2026-11-02T04:59Z daily | 2026-11-01T04:00Z -daily | 2026-11-01T03:59Z daily',
    ],
    [
      'keeps one a day of a schedule at 02:30 local time, also where that time comes twice',
      { keepDaily: 3, ...berlin },
      '2026-10-26T01:30Z daily | 2026-10-25T01:30Z daily | 2026-10-25T00:30Z -daily | 2026-10-24T00:30Z daily',
    ],
    [
      'begins its day at 10:00 UTC on Kiritimati',
      { keepDaily: 2, ...kiritimati },
      '2026-03-01T10:00Z daily | 2026-03-01T09:59Z daily | 2026-02-28T10:00Z -daily | 2026-02-28T09:59Z -',
    ],
    [
      'begins its day at 09:30 UTC on the Marquesas',
      { keepDaily: 2, ...marquesas },
      '2026-03-01T09:30Z daily | 2026-03-01T09:29Z daily | 2026-02-28T09:30Z -daily | 2026-02-28T09:29Z -',
    ],
    [
      'goes from the 29th to the 31st where Samoa left a day out',
      { keepDaily: 2, timeZone: 'Pacific/Apia' },
      '2011-12-30T10:00Z daily | 2011-12-30T09:59Z daily | 2011-12-29T10:00Z -daily | 2011-12-29T09:59Z -',
    ],
    [
      'knows the day of a summer time that began at midnight',
      { keepDaily: 2, timeZone: 'America/Sao_Paulo' },
      '2018-11-04T03:00Z daily | 2018-11-04T02:59Z daily | 2018-11-03T03:00Z -daily',
    ],
  ])('%s', (_behaviour, policy, newestFirst) => expectDecisions(policy, newestFirst));
});

describe('keep-weekly', () => {
  test.each<RetentionCase>([
    [
      'begins its week on Monday',
      { keepWeekly: 2 },
      '2026-03-09T00:00Z weekly | 2026-03-08T23:59Z weekly | 2026-03-02T00:00Z -weekly | 2026-03-01T23:59Z -',
    ],
    [
      'does not count weeks without points',
      { keepWeekly: 2 },
      '2026-03-09T12:00Z weekly | 2026-01-20T12:00Z weekly | 2026-01-12T12:00Z -',
    ],
    [
      'puts the 1st to the 3rd of January 2027 into week 53 of 2026',
      { keepWeekly: 3 },
      '2027-01-04T12:00Z weekly | 2027-01-03T12:00Z weekly | 2027-01-01T12:00Z -weekly | 2026-12-31T12:00Z -weekly | 2026-12-28T00:00Z -weekly | 2026-12-27T23:59Z weekly',
    ],
    [
      'puts the 1st of January 2021 into week 53 of 2020',
      { keepWeekly: 2 },
      '2021-01-01T12:00Z weekly | 2020-12-28T12:00Z -weekly | 2020-12-27T12:00Z weekly',
    ],
    [
      'puts the 1st of January 2016 into week 53 of 2015',
      { keepWeekly: 2 },
      '2016-01-03T12:00Z weekly | 2015-12-28T12:00Z -weekly | 2015-12-27T12:00Z weekly',
    ],
    [
      'puts the 1st of January 2023 into week 52 of 2022',
      { keepWeekly: 2 },
      '2023-01-02T12:00Z weekly | 2023-01-01T12:00Z weekly | 2022-12-26T12:00Z -weekly | 2022-12-25T12:00Z -',
    ],
    [
      'puts the 30th of December 2024 into week 1 of 2025',
      { keepWeekly: 2 },
      '2025-01-05T12:00Z weekly | 2024-12-30T12:00Z -weekly | 2024-12-29T12:00Z weekly',
    ],
    [
      'puts the 29th of December 2025 into week 1 of 2026',
      { keepWeekly: 2 },
      '2026-01-01T12:00Z weekly | 2025-12-29T12:00Z -weekly | 2025-12-28T12:00Z weekly',
    ],
    [
      'tells week 1 of two years apart',
      { keepWeekly: 2 },
      '2026-01-02T12:00Z weekly | 2025-01-02T12:00Z weekly | 2024-01-02T12:00Z -',
    ],
    [
      'begins its week when Monday begins on Kiritimati',
      { keepWeekly: 2, ...kiritimati },
      '2026-03-08T10:00Z weekly | 2026-03-08T09:59Z weekly | 2026-03-01T10:00Z -weekly',
    ],
    [
      'begins its week when Monday begins on the Marquesas',
      { keepWeekly: 2, ...marquesas },
      '2026-03-09T09:30Z weekly | 2026-03-09T09:29Z weekly | 2026-03-02T09:30Z -weekly',
    ],
    [
      'ends a week on the Sunday when summer time begins, in Berlin',
      { keepWeekly: 2, ...berlin },
      '2026-03-29T22:00Z weekly | 2026-03-29T21:59Z weekly | 2026-03-22T23:00Z -weekly | 2026-03-22T22:59Z -',
    ],
    [
      'ends a week on the Sunday when summer time ends, in New York',
      { keepWeekly: 2, ...newYork },
      '2026-11-02T05:00Z weekly | 2026-11-02T04:59Z weekly | 2026-10-26T04:00Z -weekly | 2026-10-26T03:59Z -',
    ],
  ])('%s', (_behaviour, policy, newestFirst) => expectDecisions(policy, newestFirst));
});

describe('keep-monthly and keep-yearly', () => {
  test.each<RetentionCase>([
    [
      'keep the newest of a month',
      { keepMonthly: 2 },
      '2026-03-31T23:59Z monthly | 2026-03-01T00:00Z -monthly | 2026-02-28T23:59Z monthly | 2026-01-31T12:00Z -',
    ],
    [
      'tell the same month of two years apart',
      { keepMonthly: 2 },
      '2026-03-01T12:00Z monthly | 2025-03-01T12:00Z monthly',
    ],
    [
      'do not count months without points',
      { keepMonthly: 2 },
      '2026-12-01T12:00Z monthly | 2026-02-01T12:00Z monthly | 2026-01-01T12:00Z -',
    ],
    [
      'begin the month in the time zone',
      { keepMonthly: 2, ...berlin },
      '2026-03-31T22:00Z monthly | 2026-03-31T21:59Z monthly | 2026-03-01T12:00Z -monthly',
    ],
    [
      'keep the newest of a year',
      { keepYearly: 2 },
      '2026-12-31T23:59Z yearly | 2026-01-01T00:00Z -yearly | 2025-12-31T23:59Z yearly | 2024-06-01T12:00Z -',
    ],
    [
      'begin the year first on Kiritimati',
      { keepYearly: 1, ...kiritimati },
      '2026-12-31T10:00Z yearly | 2026-12-31T09:59Z -',
    ],
    [
      'begin the year last on the Marquesas',
      { keepYearly: 1, ...marquesas },
      '2027-01-01T09:29Z yearly | 2026-01-01T09:30Z -yearly | 2026-01-01T09:29Z -',
    ],
    [
      'count by the calendar year, not by the year of the week',
      { keepYearly: 2 },
      '2027-01-01T12:00Z yearly | 2026-12-31T12:00Z yearly | 2026-01-01T12:00Z -yearly | 2025-12-31T12:00Z -',
    ],
    [
      'do not count years without points',
      { keepYearly: 2 },
      '2026-06-01T12:00Z yearly | 2019-06-01T12:00Z yearly | 2018-06-01T12:00Z -',
    ],
  ])('%s', (_behaviour, policy, newestFirst) => expectDecisions(policy, newestFirst));
});
