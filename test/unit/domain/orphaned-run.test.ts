import { describe, expect, test } from 'vitest';
import { judgeOwner, judgeRun, type RunRow } from '../../../src/domain/orphaned-run.js';

const row: RunRow = { namespaceId: 'ours', isGivenUp: false, isComplete: false };

describe('the owner of a row', () => {
  test.each([
    ['our namespace: it has to be asked', row, undefined],
    ['another namespace: left alone', { ...row, namespaceId: 'theirs' }, 'left'],
    ['no namespace: left alone', { ...row, namespaceId: null }, 'left'],
    ['a namespace that was given up: cleaned up', { ...row, namespaceId: 'lost', isGivenUp: true }, 'orphaned'],
  ])('is %s', (_what, owned, kind) => {
    expect(judgeOwner(owned, 'ours')?.kind).toBe(kind);
  });

  test('is named, with how to give it up', () => {
    expect(judgeOwner({ ...row, namespaceId: 'theirs' }, 'ours')).toMatchObject({
      because: expect.stringContaining(`'backupvm reconcile --lost-namespace theirs'`) as string,
    });
  });
});

describe('a run of our namespace', () => {
  test.each([
    ['is open: nothing is done', row, { isOpen: true, state: 'open' }, 'open'],
    ['was terminated: cleaned up', row, { isOpen: false, state: 'terminated' }, 'orphaned'],
    ['is no longer known: cleaned up', row, { isOpen: false, state: 'no longer known' }, 'orphaned'],
    [
      'was terminated after its seal: cleaned up',
      { ...row, isComplete: true },
      { isOpen: false, state: 'terminated' },
      'orphaned',
    ],
    ['completed, and its row says so', { ...row, isComplete: true }, { isOpen: false, state: 'completed' }, 'orphaned'],
    ['completed, and its row does not say so: left alone', row, { isOpen: false, state: 'completed' }, 'left'],
  ])('%s', (_what, found, run, kind) => {
    expect(judgeRun(found, run).kind).toBe(kind);
  });
});
