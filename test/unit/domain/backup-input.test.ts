import { describe, expect, test } from 'vitest';
import { parseBackupVMInput } from '../../../src/domain/backup-input.js';

const known =
  'known: vm, hypervisor, repository, type, disks, quiesce, onLostChangeId, maxChainLength, maxParallelDisks, compare, allowIothreads, allowPlaintext';

describe('parseBackupVMInput', () => {
  test('fills in the defaults', () => {
    expect(parseBackupVMInput({ vm: 'web01' })).toEqual({
      vm: 'web01',
      type: 'auto',
      quiesce: 'auto',
      onLostChangeId: 'full',
      maxParallelDisks: 4,
      compare: false,
      allowIothreads: false,
      allowPlaintext: false,
    });
  });

  test('takes every field as it is', () => {
    const input = {
      vm: 'web01',
      hypervisor: 'local',
      repository: 'main',
      type: 'incremental',
      disks: ['vda', 'SYS-1'],
      quiesce: 'require',
      onLostChangeId: 'fail',
      maxChainLength: 30,
      maxParallelDisks: 64,
      compare: true,
      allowIothreads: true,
      allowPlaintext: true,
    };
    expect(parseBackupVMInput(input)).toEqual(input);
  });

  test.each(['x'.repeat(200), '../..', 'a/b', `it's "it"`, 'grün 日本', ' '])(
    'takes the VM name %j: it is encoded later',
    (vm) => {
      expect(parseBackupVMInput({ vm }).vm).toBe(vm);
    },
  );

  test.each<[unknown, string]>([
    [undefined, `input: expected an object such as {"vm":"web01"}, found nothing`],
    [null, `input: expected an object such as {"vm":"web01"}, found null`],
    ['web01', `input: expected an object such as {"vm":"web01"}, found "web01"`],
    [['web01'], `input: expected an object such as {"vm":"web01"}, found ["web01"]`],
    [{}, 'vm: expected the name of a VM as a string, found nothing'],
    [{ vm: 7 }, 'vm: expected the name of a VM as a string, found 7'],
    [{ vm: null }, 'vm: expected the name of a VM as a string, found null'],
    [{ vm: '' }, 'vm: expected the name of a VM, not an empty string, found ""'],
    [{ vm: 'a\nb' }, 'vm: expected the name of a VM without control characters, found "a\\nb"'],
    [{ vm: 'x'.repeat(201) }, `vm: expected the name of a VM of at most 200 characters, found "${'x'.repeat(79)}…`],
    [
      { vm: 'a', hypervisor: '' },
      'hypervisor: expected the name of a registered hypervisor, not an empty string, found ""',
    ],
    [{ vm: 'a', repository: 1 }, 'repository: expected the name of a registered repository as a string, found 1'],
    [{ vm: 'a', type: 'diff' }, `type: expected one of 'auto', 'full', 'incremental', found "diff"`],
    [{ vm: 'a', quiesce: true }, `quiesce: expected one of 'auto', 'require', 'off', found true`],
    [{ vm: 'a', onLostChangeId: 'stop' }, `onLostChangeId: expected one of 'full', 'fail', found "stop"`],
    [{ vm: 'a', disks: 'vda' }, 'disks: expected a list of disk keys or targets, found "vda"'],
    [{ vm: 'a', disks: [] }, 'disks: expected at least one disk, or no such field to back up all of them, found []'],
    [{ vm: 'a', disks: ['vda', ''] }, 'disks.1: expected the key or target of a disk, not an empty string, found ""'],
    [{ vm: 'a', maxParallelDisks: '4' }, 'maxParallelDisks: expected a number, found "4"'],
    [{ vm: 'a', maxParallelDisks: 1.5 }, 'maxParallelDisks: expected a whole number, found 1.5'],
    [{ vm: 'a', maxParallelDisks: 0 }, 'maxParallelDisks: expected 1 to 64, found 0'],
    [{ vm: 'a', maxParallelDisks: 65 }, 'maxParallelDisks: expected 1 to 64, found 65'],
    [{ vm: 'a', typ: 'full' }, `unknown field 'typ' (${known})`],
  ])('refuses %j', (input, problem) => {
    expect(() => parseBackupVMInput(input)).toThrow(
      expect.objectContaining({ code: 'InvalidInput', message: `Bad input of BackupVM: ${problem}` }) as Error,
    );
  });

  test('names all problems at once', () => {
    const input = { vm: '', type: 'x', disks: [], retention: 3, parallel: 2 };
    expect(() => parseBackupVMInput(input)).toThrow(
      expect.objectContaining({
        message:
          'Bad input of BackupVM: ' +
          [
            'vm: expected the name of a VM, not an empty string, found ""',
            `type: expected one of 'auto', 'full', 'incremental', found "x"`,
            'disks: expected at least one disk, or no such field to back up all of them, found []',
            `unknown field 'retention' (${known})`,
            `unknown field 'parallel' (${known})`,
          ].join('; '),
      }) as Error,
    );
  });
});
