import { describe, expect, test } from 'vitest';
import { parsePruneBackupsInput } from '../../../src/domain/prune-input.js';
import { describePolicy, parsePolicy } from '../../../src/domain/retention-policy.js';

describe('the input of PruneBackups', () => {
  test('may be empty: all VMs of the only repository, each by its own policy', () => {
    expect(parsePruneBackupsInput({})).toEqual({ dryRun: false });
  });

  test('takes every field; the time zone of a policy is UTC where none is said', () => {
    const input = { vm: 'web01', hypervisor: 'local', repository: 'main', dryRun: true, policy: { keepLast: 3 } };
    expect(parsePruneBackupsInput(input)).toEqual({ ...input, policy: { keepLast: 3, timeZone: 'UTC' } });
  });

  test.each<[unknown, string]>([
    [
      'web01',
      `input: expected an object such as {"vm":"web01"}, or {} for all VMs of the only repository, found "web01"`,
    ],
    [{ vm: '' }, 'vm: expected the name of a VM, not an empty string'],
    [{ vms: 'web01' }, `unknown field 'vms'`],
    [{ policy: 3 }, 'policy: expected an object such as'],
    [{ policy: { keepLast: 0 } }, 'policy.keepLast: expected 1 to 100000, found 0'],
    [{ policy: { keepLast: 1.5 } }, 'policy.keepLast: expected a whole number, found 1.5'],
    [{ policy: { keepDaily: '7' } }, 'policy.keepDaily: expected a number, found "7"'],
    [{ policy: { keepLast: 1, keepForever: 1 } }, `unknown field 'keepForever'`],
    [{ policy: { keepLast: 1, timeZone: 'CEST+2' } }, `policy.timeZone: expected the IANA name of a time zone`],
    [{ dryRun: 'yes' }, 'dryRun: expected true or false, found "yes"'],
  ])('%j is refused, and why', (input, problem) => {
    expect(() => parsePruneBackupsInput(input)).toThrow(
      expect.objectContaining({ code: 'InvalidInput', message: expect.stringContaining(problem) as string }),
    );
  });
});

describe('a policy', () => {
  test.each([{}, { timeZone: 'Europe/Berlin' }])('without any rule is refused: %j', (input) => {
    expect(() => parsePolicy(input)).toThrow(expect.objectContaining({ code: 'NoPolicy' }));
    expect(() => parsePruneBackupsInput({ policy: input })).toThrow(expect.objectContaining({ code: 'NoPolicy' }));
  });

  test('in words', () => {
    const policy = { keepYearly: 2, keepLast: 3, timeZone: 'Europe/Berlin' };
    expect(describePolicy(parsePolicy(policy))).toBe('keep-last 3, keep-yearly 2, time zone Europe/Berlin');
  });
});
