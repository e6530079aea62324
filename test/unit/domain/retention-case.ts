import { expect } from 'vitest';
import { decideRetention, type RetentionPolicy } from '../../../src/domain/retention.js';

export const berlin = { timeZone: 'Europe/Berlin' };
export const newYork = { timeZone: 'America/New_York' };
export const kiritimati = { timeZone: 'Pacific/Kiritimati' }; // UTC+14
export const marquesas = { timeZone: 'Pacific/Marquesas' }; // UTC-9:30

/**
 * Points from the newest on, `TIME MARK | TIME MARK`, each with what becomes of it. `last`, `daily`, …: that rule keeps it.
 * `-daily`: that rule keeps a newer one of its period. `-`: no rule keeps it.
 */
export type RetentionCase = [behaviour: string, policy: Partial<RetentionPolicy>, newestFirst: string];

export function expectDecisions(policy: Partial<RetentionPolicy>, newestFirst: string): void {
  const times = newestFirst.split(' | ').map((point) => point.split(' ')[0] ?? '');
  const points = times.map((time, index) => ({
    ...{ id: String(index), time: new Date(time), isDamaged: false, protection: null, needs: [] },
  }));
  const decisions = decideRetention([...points].reverse(), { timeZone: 'UTC', ...policy });
  const found = decisions.map(({ id, keep, rule }) => {
    const mark = `${keep ? '' : '-'}${rule.replace(/^(keep-|none$)/, '')}`;
    return `${times[Number(id)]} ${mark}`;
  });
  expect(found.join(' | ')).toBe(newestFirst);
}
