import { ApplicationFailure, CancelledFailure, TerminatedFailure } from '@temporalio/common';
import { expect, test } from 'vitest';
import { describeWorkflowFailure, reportFailure } from '../../../src/cli/failure.js';
import { Interrupted } from '../../../src/cli/terminal.js';
import { BackupError, errorCodes, type ErrorCode } from '../../../src/domain/errors.js';
import { recordTerminal } from './run-command.js';

function report(error: unknown, json?: true) {
  const { terminal, written } = recordTerminal({});
  const exitCode = reportFailure(error, terminal, { json });
  return { exitCode, ...written };
}

test.each(Object.keys(errorCodes) as ErrorCode[])('%s has an exit code of its own class', (code) => {
  const { exitCode, stderr } = report(new BackupError(code, 'what and why'));
  expect(exitCode).toBe(errorCodes[code].exitCode);
  expect(exitCode).toBeGreaterThan(1);
  expect(stderr).toBe('what and why\n');
});

test('with --json an error is one document on standard error', () => {
  const { stdout, stderr } = report(new BackupError('VMNotFound', 'no such VM'), true);
  expect(JSON.parse(stderr)).toEqual({ error: { code: 'VMNotFound', message: 'no such VM', exitCode: 3 } });
  expect(stdout).toBe('');
});

test('what nobody expected exits with 1 and shows where it came from', () => {
  const { exitCode, stderr } = report(new TypeError('a mistake'));
  expect(exitCode).toBe(1);
  expect(stderr).toContain('TypeError: a mistake');
  expect(stderr).toContain('failure.test.ts');
});

test('Ctrl-C exits with 130', () => expect(report(new Interrupted('no longer watched')).exitCode).toBe(130));

const ours = ApplicationFailure.create({ type: 'RepositoryFull', message: 'no space' });
test.each([
  ['the code of the activity', new Error('workflow failed', { cause: ours }), 'RepositoryFull', 'no space'],
  [
    'the innermost code of ours',
    ApplicationFailure.create({ type: 'HostNotUp', message: 'outer', cause: ours }),
    'RepositoryFull',
    'no space',
  ],
  [
    'the code, not the name of the class that carried it',
    ApplicationFailure.create({
      type: 'VMNotFound',
      message: 'no such VM',
      cause: ApplicationFailure.create({ type: 'BackupError', message: 'no such VM' }),
    }),
    'VMNotFound',
    'no such VM',
  ],
  ['a cancellation', new Error('failed', { cause: new CancelledFailure('cancelled') }), 'Cancelled', 'was cancelled'],
  ['a termination', new Error('failed', { cause: new TerminatedFailure('by me') }), 'Cancelled', 'was terminated'],
])('of a failed workflow people are told %s', (_what, failure, code, message) => {
  const error = describeWorkflowFailure(failure, 'backup-vm/web01', 'no point was made');
  expect(error).toMatchObject({ code });
  expect(error.message).toContain(message);
});

test('a mistake in a workflow stays unexpected', () => {
  const mistake = ApplicationFailure.create({ type: 'TypeError', message: 'x is undefined' });
  const error = describeWorkflowFailure(
    new Error('workflow failed', { cause: mistake }),
    'backup-vm/web01',
    'no point was made',
  );
  expect(error).toBe(mistake);
  expect(report(error).exitCode).toBe(1);
});
