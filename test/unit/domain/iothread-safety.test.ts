import { expect, test } from 'vitest';
import { acceptedRisks, afterRisk, guestAtRisk, iothreadRisk } from '../../../src/domain/iothread-safety.js';
import { BackupError } from '../../../src/domain/errors.js';

const disks = [
  { key: 'SYS', target: 'vda' },
  { key: 'vdb', target: 'vdb' },
];
const version = (text: string) => {
  const [major = 0, minor = 0, micro = 0] = text.split('.').map(Number);
  return { major, minor, micro };
};

test.each(['9.0.0', '9.2.1', '10.0.2', '11.0.0', '8.2.3', '8.2.10'])('QEMU %s is known to be good', (text) => {
  expect(iothreadRisk(disks, version(text))).toBeNull();
});

test.each(['7.2.0', '7.2.22'])('QEMU %s is known to crash the guest', (text) => {
  expect(iothreadRisk(disks, version(text))).toBe(
    `disk 'SYS' (vda), 'vdb' has an iothread, and QEMU ${text} crashes the guest when such a disk is read by a backup`,
  );
});

test.each(['6.2.0', '8.0.5', '8.1.3', '8.2.2', '8.3.9'])('QEMU %s is not known to be safe', (text) => {
  expect(iothreadRisk(disks, version(text))).toContain(`QEMU ${text} is not known to be safe`);
});

test('a QEMU that does not say its version is not known to be safe', () => {
  expect(iothreadRisk(disks, null)).toContain('QEMU of an unknown version is not known to be safe');
});

test('without a disk that has an iothread there is no risk', () => {
  expect(iothreadRisk([], version('7.2.22'))).toBeNull();
});

test('the refusal names VM, disk and every way out', () => {
  const { code, message } = guestAtRisk('web01', iothreadRisk(disks, version('7.2.22')) ?? '');
  expect(code).toBe('GuestAtRisk');
  for (const word of ["'web01'", "'SYS' (vda)", 'update QEMU', "'disks'", "'allowIothreads'"]) {
    expect(message).toContain(word);
  }
});

test('an accepted risk is a warning, and part of each later error', () => {
  expect(acceptedRisks(null)).toEqual([]);
  expect(acceptedRisks('a risk')).toEqual(["a risk; backed up all the same, since 'allowIothreads' is set"]);
  const error = new BackupError('SnapshotLost', 'the VM is gone', { details: { a: 1 } });
  expect(afterRisk(error, null)).toBe(error);
  expect(afterRisk(error, 'a risk')).toMatchObject({
    code: 'SnapshotLost',
    details: { a: 1 },
    message: "the VM is gone (a risk, which 'allowIothreads' accepted)",
  });
});
