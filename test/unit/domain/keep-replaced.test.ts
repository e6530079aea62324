import { expect, test } from 'vitest';
import { keepReplacedSeconds, parseKeepTime } from '../../../src/domain/keep-replaced.js';
import { parseRestoreVMInput } from '../../../src/domain/restore-input.js';

test.each([
  ['none', 0],
  ['0', 0],
  ['90m', 5_400],
  ['24h', 86_400],
  ['7d', 604_800],
  ['', undefined],
  ['0h', undefined],
  ['24', undefined],
  ['-1h', undefined],
  ['1.5h', undefined],
  ['1w', undefined],
  ['24 h', undefined],
])('a time to keep %j is %s seconds', (text, seconds) => {
  expect(parseKeepTime(text)).toBe(seconds);
});

test('a restore in place keeps what it replaces for a day, one that may overwrite does not, and both do as they are told', () => {
  const [inPlace, files] = [{ kind: 'in-place' as const }, { kind: 'files' as const }];
  expect(keepReplacedSeconds({ target: inPlace })).toBe(86_400);
  expect(keepReplacedSeconds({ target: { kind: 'vm' } })).toBe(0);
  expect(keepReplacedSeconds({ target: files })).toBe(0);
  expect(keepReplacedSeconds({ target: files, keepReplaced: '7d' })).toBe(604_800);
  expect(keepReplacedSeconds({ target: inPlace, keepReplaced: 'none' })).toBe(0);
});

test.each(['soon', '1y', '99999d', 24])('RestoreVM refuses to keep replaced disks for %j', (keepReplaced) => {
  const input = { vm: 'web01', target: { kind: 'in-place' }, keepReplaced };
  expect(() => parseRestoreVMInput(input)).toThrow(/keepReplaced: expected/);
});
