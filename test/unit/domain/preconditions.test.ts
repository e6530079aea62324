import { describe, expect, test } from 'vitest';
import type { DiskPlan, PlanReason } from '../../../src/domain/plan.js';
import {
  requireParent,
  requirePlaintextAllowed,
  requireRepositorySpace,
  requireRunning,
} from '../../../src/domain/preconditions.js';

function plan(key: string, reason: PlanReason): DiskPlan {
  const type = reason === 'parent_good' ? 'incremental' : 'full';
  return { key, target: key, identity: key, sizeBytes: 1, type, reason, parentId: null, baseChangeId: null };
}

describe('requireRunning', () => {
  test.each(['running', 'paused', 'other'])('leaves a VM that is %s to the hypervisor', (state) => {
    expect(() => requireRunning({ name: 'web01', state })).not.toThrow();
  });

  test('refuses a VM that is shut off, and says what to do', () => {
    expect(() => requireRunning({ name: 'web01', state: 'shut off' })).toThrow(
      expect.objectContaining({
        code: 'VMNotRunning',
        message:
          "Expected VM 'web01' running or paused, found it shut off; start it, or start it paused to keep its guest from running, and back it up again",
      }) as Error,
    );
  });
});

describe('requirePlaintextAllowed', () => {
  const [clear, secret] = [
    { key: 'vda', isEncrypted: false },
    { key: 'vdb', isEncrypted: true },
  ];

  test('says nothing of disks in clear, nor of encrypted ones where a person allowed it', () => {
    expect(() => requirePlaintextAllowed('web01', [clear], false)).not.toThrow();
    expect(() => requirePlaintextAllowed('web01', [clear, secret], true)).not.toThrow();
  });

  test('refuses an encrypted disk by name, and says how to go on', () => {
    expect(() => requirePlaintextAllowed('web01', [clear, secret], false)).toThrow(
      expect.objectContaining({
        code: 'DiskEncrypted',
        message: expect.stringMatching(/disk 'vdb' is.*allowPlaintext/) as string,
      }) as Error,
    );
  });
});

describe('requireParent', () => {
  const fulls = [plan('vda', 'first_backup'), plan('vdb', 'disk_grown')];
  test.each([
    ['anything goes where a full may be made', 'auto' as const, fulls],
    ['anything goes where a full is asked for', 'full' as const, fulls],
    ['one disk with a parent is enough', 'incremental' as const, [...fulls, plan('vdc', 'parent_good')]],
  ])('%s', (_behaviour, requested, plans) => {
    expect(() => requireParent('web01', requested, plans)).not.toThrow();
  });

  test('an incremental is refused where no disk has a parent, with the reason of each', () => {
    expect(() => requireParent('web01', 'incremental', fulls)).toThrow(
      expect.objectContaining({
        code: 'NoParent',
        message:
          "Expected an incremental of VM 'web01', but no disk has a restore point to start from ('vda': the first backup of this VM, 'vdb': the disk grew); use type 'auto' or 'full'",
      }) as Error,
    );
  });
});

describe('requireRepositorySpace', () => {
  test('all copies together may fill it to the last byte', () => {
    expect(() => requireRepositorySpace('main', [{ changedBytes: 600 }, { changedBytes: 400 }], 1000)).not.toThrow();
    expect(() => requireRepositorySpace('main', [], 0)).not.toThrow();
  });

  test('one byte more is refused, with both sizes', () => {
    expect(() => requireRepositorySpace('main', [{ changedBytes: 2 ** 30 }, { changedBytes: 1 }], 2 ** 30)).toThrow(
      expect.objectContaining({
        code: 'RepositoryFull',
        message: "Expected 1.0 GiB free in repository 'main', found 1.0 GiB; free some, or use another repository",
      }) as Error,
    );
  });
});
