import { expect, test } from 'vitest';
import { controlQueue, copyQueue, mainQueue, searchAttributes } from '../../../src/workflows/messages.js';

test('queues carry the host and nothing else, so that a worker that starts again finds its work', () => {
  expect([mainQueue, copyQueue('kvm1'), controlQueue('kvm1')]).toEqual([
    'backupvm',
    'backupvm.kvm1',
    'backupvm.kvm1.control',
  ]);
});

test('search attributes have the documented names', () => {
  expect(Object.values(searchAttributes).map(({ name, type }) => `${name} ${type}`)).toEqual([
    'BackupVMName KEYWORD',
    'BackupRepository KEYWORD',
    'BackupType KEYWORD',
    'BackupStatus KEYWORD',
  ]);
});
