import { expect, test } from 'vitest';
import { BackupError, errorCodes, type ErrorCode } from '../../../src/domain/errors.js';

const codes = Object.keys(errorCodes) as ErrorCode[];

test.each(codes)('%s says whether trying again helps, and has an exit code of its own kind', (code) => {
  expect(code).toMatch(/^[A-Z][A-Za-z]+$/);
  expect(typeof errorCodes[code].permanent).toBe('boolean');
  expect(errorCodes[code].exitCode).toBeGreaterThanOrEqual(2); // 0 and 1 are for success and for mistakes of ours
  expect(errorCodes[code].exitCode).toBeLessThan(64);
  expect(new BackupError(code, 'told').permanent).toBe(errorCodes[code].permanent);
});

test('what may pass by itself is tried again, what only people can mend is not', () => {
  const permanent = (code: ErrorCode) => new BackupError(code, '').permanent;
  expect(
    ['CopyFailed', 'ExportFailed', 'SourceBusy', 'CleanUpFailed', 'DatabaseUnreachable'].filter((code) =>
      permanent(code as ErrorCode),
    ),
  ).toEqual([]);
  expect(
    ['InvalidInput', 'VMNotFound', 'RepositoryFull', 'BackupAlreadyRunning'].every((code) =>
      permanent(code as ErrorCode),
    ),
  ).toBe(true);
});

test('an error carries code, message, cause and details', () => {
  const cause = new Error('below');
  const error = new BackupError('PortTaken', 'Expected port 1 free', { cause, details: { port: 1 } });
  expect(error).toBeInstanceOf(Error);
  expect({ ...error, message: error.message, cause: error.cause, text: String(error) }).toEqual({
    name: 'BackupError',
    code: 'PortTaken',
    details: { port: 1 },
    message: 'Expected port 1 free',
    cause,
    text: 'BackupError: Expected port 1 free',
  });
});
