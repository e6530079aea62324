import { expect, test } from 'vitest';
import { restoredFileName, restoreSiblings } from '../../../src/domain/names.js';
import { parseRestoreVMInput } from '../../../src/domain/restore-input.js';

const files = { kind: 'files', directory: '/var/restore' };

test('what is not given has its default', () => {
  expect(parseRestoreVMInput({ vm: 'web01', target: files })).toEqual({
    vm: 'web01',
    target: { ...files, format: 'qcow2' },
    ...{ overwrite: false, allowDamaged: false, maxParallelDisks: 4 },
  });
  expect(parseRestoreVMInput({ point: 'ab12', target: { kind: 'vm', name: 'copy', directory: '/r' } }).target).toEqual({
    ...{ kind: 'vm', name: 'copy', directory: '/r', start: false },
  });
});

test.each<[what: string, input: unknown, problems: string[]]>([
  ['nothing at all', undefined, [`expected an object such as {"vm":"web01"`]],
  ['neither point nor VM', { target: files }, [`point: expected either 'point' or 'vm'`]],
  ['both', { point: 'a', vm: 'b', target: files }, [`point: expected either 'point' or 'vm'`]],
  ['a time for a point', { point: 'a', at: '2026-11-23T00:00:00Z', target: files }, ['at: expected no time beside']],
  ['a time without its zone', { vm: 'a', at: '2026-11-23T00:00:00', target: files }, ['at: expected a time such as']],
  ['another kind', { vm: 'a', target: { kind: 'tape' } }, [`target.kind: expected an object whose 'kind' is 'files'`]],
  [
    'a relative path',
    { vm: 'a', target: { ...files, directory: 'r' } },
    ['target.directory: expected the absolute path'],
  ],
  ['a name with a slash', { vm: 'a', target: { kind: 'vm', name: 'a/b', directory: '/r' } }, ['name without slashes']],
  ['a field of another target', { vm: 'a', target: { ...files, start: true } }, [`unknown field 'start' in target`]],
  [
    'no point and no VM, and a field that is wrong by itself',
    { target: { ...files, directory: 'r' }, overwrite: 'yes' },
    [`point: expected either 'point' or 'vm'`, 'target.directory: expected', 'overwrite: expected true'],
  ],
  [
    'a time for a point, and a field that is wrong by itself',
    { point: 'a', at: '2026-11-23T00:00:00Z', target: files, maxParallelDisks: 0 },
    ['at: expected no time beside', 'maxParallelDisks: expected'],
  ],
  [
    'several at once',
    { vm: '', target: { kind: 'files', directory: 'r', format: 'vmdk' }, disks: [], overwrite: 'yes', mode: 1 },
    [
      'vm: expected',
      'target.directory',
      'target.format',
      'disks: expected at least one',
      'overwrite: expected true',
      `'mode'`,
    ],
  ],
])('%s is refused', (_what, input, problems) => {
  for (const problem of problems) expect(() => parseRestoreVMInput(input)).toThrow(problem);
});

test('names from outside make no path, and the files beside a restored one say whose they are', () => {
  expect(restoredFileName('../web/01', 'vda', 'raw')).toBe('%2E.%2Fweb%2F01-vda.raw');
  const { attemptPath, keptPath } = restoreSiblings('/srv/images/web01.qcow2', 'lease', 'vda');
  expect([attemptPath, keptPath]).toEqual(['/srv/images/.lease.vda.partial', '/srv/images/.lease.vda.before']);
  const others = restoreSiblings(`/srv/${'x'.repeat(250)}`, 'lease', 'y'.repeat(300));
  expect(others.attemptPath.length).toBeLessThan(200);
});
