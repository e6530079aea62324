import { ActivityFailure, ApplicationFailure, CancelledFailure, TimeoutFailure } from '@temporalio/workflow';
import { describe, expect, test } from 'vitest';
import { BackupError } from '../../../src/domain/errors.js';
import { applicationFailureIn, closingFailure, mayBeRetried, messageOf } from '../../../src/workflows/failures.js';

const inActivity = (cause: Error) =>
  new ActivityFailure('Activity task failed', 'transferDisk', '7', 'MAXIMUM_ATTEMPTS_REACHED', 'worker', cause);
const failure = (type: string, nonRetryable: boolean) =>
  ApplicationFailure.create({ type, message: `${type} happened`, nonRetryable });
const timeout = (type: ConstructorParameters<typeof TimeoutFailure>[2]) =>
  new TimeoutFailure('too late', undefined, type);

describe('mayBeRetried', () => {
  test.each<[string, unknown, boolean]>([
    ['a failure that may pass', inActivity(failure('CopyFailed', false)), true],
    ['a failure that stays', inActivity(failure('RepositoryFull', true)), false],
    ['a worker that died', inActivity(timeout('HEARTBEAT')), true],
    ['a step that took too long', inActivity(timeout('START_TO_CLOSE')), true],
    ['a cancelled step', inActivity(new CancelledFailure('cancelled')), false],
    ['a cancelled workflow', new CancelledFailure('cancelled'), false],
    ['a mistake in workflow code', new TypeError('not a function'), false],
    ['something that is no error', 'oops', false],
  ])('%s: %#', (_what, error, expected) => {
    expect(mayBeRetried(error)).toBe(expected);
  });
});

describe('closingFailure', () => {
  test('puts the activity’s own message and code at the top, for good', () => {
    const error = inActivity(failure('CopyFailed', false));
    expect(closingFailure(error, 'kvm1')).toMatchObject({
      type: 'CopyFailed',
      message: 'CopyFailed happened',
      nonRetryable: true,
      cause: error,
    });
  });

  test('gives a rule’s error its code as type', () => {
    expect(closingFailure(new BackupError('InvalidInput', 'Bad input'))).toMatchObject({
      type: 'InvalidInput',
      message: 'Bad input',
      nonRetryable: true,
    });
    expect(closingFailure(new BackupError('InvalidInput', 'Bad input'))).toBeInstanceOf(ApplicationFailure);
  });

  test('says which host is not up, when nobody took a step', () => {
    expect(closingFailure(inActivity(timeout('SCHEDULE_TO_START')), 'kvm1')).toMatchObject({
      type: 'HostNotUp',
      message: expect.stringContaining("Expected a worker of host 'kvm1'") as string,
      nonRetryable: true,
    });
  });

  test.each<[string, unknown]>([
    ['a cancelled workflow', new CancelledFailure('cancelled')],
    ['a cancelled step', inActivity(new CancelledFailure('cancelled'))],
    ['a mistake in workflow code, which fails the task and not the workflow', new TypeError('not a function')],
    ['a step that took too long', inActivity(timeout('START_TO_CLOSE'))],
    ['a failure that is one already', failure('HostNotUp', true)],
  ])('leaves %s as it is', (_what, error) => {
    expect(closingFailure(error, 'kvm1')).toBe(error);
  });

  test('is the same when it is applied twice', () => {
    const once = closingFailure(inActivity(failure('CopyFailed', false)), 'kvm1');
    expect(closingFailure(once, 'kvm1')).toBe(once);
  });
});

test('applicationFailureIn looks below the activity', () => {
  const below = failure('PortTaken', true);
  expect(applicationFailureIn(inActivity(below))).toBe(below);
  expect(applicationFailureIn(below)).toBe(below);
  expect(applicationFailureIn(inActivity(timeout('HEARTBEAT')))).toBeUndefined();
  expect(applicationFailureIn(new Error('other'))).toBeUndefined();
});

test('messageOf says what the job’s row will', () => {
  expect(messageOf(new CancelledFailure('whatever'))).toBe('cancelled');
  expect(messageOf(failure('CopyFailed', false))).toBe('CopyFailed happened');
  expect(messageOf('oops')).toBe('oops');
});
