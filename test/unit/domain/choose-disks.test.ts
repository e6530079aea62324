import { describe, expect, test } from 'vitest';
import { chooseDisks } from '../../../src/domain/choose-disks.js';

const system = { key: 'SYS-1', target: 'vda', skipReason: null };
const data = { key: 'vdb', target: 'vdb', skipReason: null };
const cdrom = { key: 'sda', target: 'sda', skipReason: 'CD-ROM' };
const vm = { name: 'web01', disks: [system, data, cdrom] };

describe('chooseDisks', () => {
  test.each([
    ['without names, all that can be backed up', undefined, [system, data]],
    ['by key', ['SYS-1'], [system]],
    ['by target', ['vda'], [system]],
    ['one disk once, though it is named twice', ['vda', 'SYS-1'], [system]],
    ['in the order of the VM, not of the names', ['vdb', 'SYS-1'], [system, data]],
  ])('%s', (_behaviour, names, expected) => {
    expect(chooseDisks(vm, names)).toEqual(expected);
  });

  test.each([
    [
      'every unknown name, and what there is',
      vm,
      ['vdx', 'vda', 'vdy'],
      'DiskNotFound',
      "Expected disk 'vdx', 'vdy' of VM 'web01', found only: 'SYS-1' (vda), 'vdb', 'sda': CD-ROM",
    ],
    [
      'a VM without disks',
      { name: 'empty', disks: [] },
      ['vda'],
      'DiskNotFound',
      "Expected disk 'vda' of VM 'empty', found only: no disk at all",
    ],
    [
      'a named disk that cannot be backed up',
      vm,
      ['vda', 'sda'],
      'InvalidInput',
      "Disk 'sda' (CD-ROM) of VM 'web01' cannot be backed up; leave it out of 'disks'",
    ],
    [
      'a VM of which no disk can be backed up',
      { name: 'live', disks: [cdrom] },
      undefined,
      'InvalidInput',
      "VM 'live' has no disk that can be backed up: 'sda': CD-ROM",
    ],
    [
      'a VM without disks, where none is named',
      { name: 'empty', disks: [] },
      undefined,
      'InvalidInput',
      "VM 'empty' has no disk that can be backed up: it has none at all",
    ],
  ])('refuses %s', (_behaviour, candidate, names, code, message) => {
    expect(() => chooseDisks(candidate, names)).toThrow(expect.objectContaining({ code, message }) as Error);
  });
});
