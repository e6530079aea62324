import { z } from 'zod';
import { BackupError } from './errors.js';
import { isTimeZone } from './local-time.js';
import { count, parseInput } from './parse-input.js';
import { keepFields, keepRules, type RetentionPolicy } from './retention.js';

const keep = () => count(1, 100_000).optional();

/** A policy as people write it. The time zone's default is UTC. */
export const policySchema = z.strictObject(
  {
    keepLast: keep(),
    keepHourly: keep(),
    keepDaily: keep(),
    keepWeekly: keep(),
    keepMonthly: keep(),
    keepYearly: keep(),
    timeZone: z
      .string('expected the IANA name of a time zone')
      .refine(isTimeZone, `expected the IANA name of a time zone, such as 'Europe/Berlin'`)
      .default('UTC'),
  },
  `expected an object such as {"keepDaily":7,"timeZone":"Europe/Berlin"}`,
);

/** A policy with its defaults to be filled in. */
export type PolicyRequest = z.input<typeof policySchema>;

/** Checks a policy and fills in its defaults. @throws BackupError InvalidInput, which names every problem at once; NoPolicy */
export function parsePolicy(input: unknown): RetentionPolicy {
  const policy = parseInput('policy set', policySchema, Object.keys(policySchema.shape), input);
  requireKeepRule(policy);
  return policy;
}

/** A policy that keeps nothing by any rule would remove everything. @throws BackupError NoPolicy */
export function requireKeepRule(policy: RetentionPolicy): void {
  if (keepFields.some((field) => policy[field] !== undefined)) return;
  throw new BackupError(
    'NoPolicy',
    `Expected a policy with at least one of ${keepFields.join(', ')}, found none of them; nothing was removed`,
  );
}

/** `keep-last 3, keep-daily 7, time zone Europe/Berlin` */
export function describePolicy(policy: RetentionPolicy): string {
  const rules = keepFields.flatMap((field) => {
    const found = policy[field];
    return found === undefined ? [] : [`${keepRules[field].name} ${found}`];
  });
  return [...rules, `time zone ${policy.timeZone}`].join(', ');
}
