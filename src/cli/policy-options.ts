import type { Command } from 'commander';
import { keepFields, keepRules, type KeepField } from '../domain/retention.js';
import type { PolicyRequest } from '../domain/retention-policy.js';
import { parseCount } from './command.js';

/** What the options of a policy come to. */
export type PolicyOptions = Partial<Record<KeepField, number>> & { timeZone?: string };

const kept: Record<KeepField, string> = {
  keepLast: 'the newest restore points',
  keepHourly: 'the newest of an hour, for so many hours that have one',
  keepDaily: 'the newest of a day',
  keepWeekly: 'the newest of a week, Monday to Sunday',
  keepMonthly: 'the newest of a month',
  keepYearly: 'the newest of a year',
};

/** Adds the options that make a policy. */
export function addPolicyOptions(command: Command): Command {
  for (const field of keepFields) {
    command.option(`--${keepRules[field].name} <count>`, `keep ${kept[field]}`, parseCount(100_000));
  }
  return command.option('--time-zone <name>', `where a day begins, such as Europe/Berlin (default: UTC)`);
}

/** The policy of the options that were given; undefined when none was. */
export function readPolicyOptions(options: PolicyOptions): PolicyRequest | undefined {
  const fields = [...keepFields, 'timeZone'] as const;
  const given = fields.flatMap((field) => (options[field] === undefined ? [] : [[field, options[field]] as const]));
  return given.length === 0 ? undefined : Object.fromEntries(given);
}
