import { expect, test } from 'vitest';
import { parseDeleteBackupInput } from '../../../src/domain/delete-input.js';

test('a restore point alone is enough, and others that need it keep it', () => {
  expect(parseDeleteBackupInput({ point: '3f2a' })).toEqual({
    ...{ point: '3f2a', all: false, descendants: 'refuse', dryRun: false },
  });
});

test.each([
  [undefined, 'expected an object such as {"point":"3f2a91c0"}'],
  [{}, `point: expected the restore point to delete, or a VM`],
  [{ vm: 'web01' }, `a VM in 'vm' together with "all":true`],
  [{ all: true }, 'found nothing'],
  [{ vm: '', dryRun: 1 }, /vm: expected.*dryRun: expected true or false.*point: expected the restore point/],
  [{ point: '', descendants: 'keep' }, /not an empty string.*descendants: expected one of 'refuse', 'delete', 'merge'/],
  [{ point: 'x', force: true }, `unknown field 'force'`],
])('%j is refused', (input, message) => {
  expect(() => parseDeleteBackupInput(input)).toThrow(message);
});
