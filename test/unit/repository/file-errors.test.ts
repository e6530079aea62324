import { describe, expect, test } from 'vitest';
import { describeFileFailure, errorCodeOf } from '../../../src/repository/file-errors.js';

const failure = (code: string, path?: string) => Object.assign(new Error(`${code}: refused`), { code, path });

describe('describeFileFailure', () => {
  test.each([
    ['ENOSPC', 'RepositoryFull'],
    ['EDQUOT', 'RepositoryFull'],
    ['EROFS', 'RepositoryUnusable'],
    ['EACCES', 'RepositoryUnusable'],
    ['EPERM', 'RepositoryUnusable'],
    ['ENOTDIR', 'RepositoryUnusable'],
    ['EISDIR', 'RepositoryUnusable'],
    ['ENAMETOOLONG', 'RepositoryUnusable'],
    ['EIO', 'RepositoryUnusable'],
    ['ESTALE', 'RepositoryUnusable'],
  ])('%s is %s, and names the file', (code, expected) => {
    const cause = failure(code, '/srv/backups/disk');
    expect(describeFileFailure(cause)).toMatchObject({
      code: expected,
      message: expect.stringContaining('/srv/backups/disk') as string,
      cause,
    });
  });

  test.each([failure('ENOENT', '/a'), failure('ECONNREFUSED'), new Error('ENOSPC'), 'ENOSPC', null])(
    'leaves %s to others',
    (error) => {
      expect(describeFileFailure(error)).toBeUndefined();
    },
  );
});

test('errorCodeOf finds the code of a system’s error, and of nothing else', () => {
  expect(errorCodeOf(failure('ENOENT'))).toBe('ENOENT');
  expect(errorCodeOf(Object.assign(new Error(), { code: 7 }))).toBeUndefined();
  expect(errorCodeOf({ code: 'ENOENT' })).toBeUndefined();
});
