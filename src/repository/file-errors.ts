import { BackupError } from '../domain/errors.js';

/** The errno name of a file system's error, such as `ENOSPC`. */
export function errorCodeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Puts a file system's refusal into words; undefined when the error is of another kind. */
export function describeFileFailure(error: unknown): BackupError | undefined {
  const path = error instanceof Error && 'path' in error ? String(error.path) : 'the repository';
  switch (errorCodeOf(error)) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new BackupError('RepositoryFull', `No space is left for ${path}; free some, or use another repository`, {
        cause: error,
      });
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
      return new BackupError('RepositoryUnusable', `Expected to be allowed to write ${path}: ${String(error)}`, {
        cause: error,
      });
    case 'ENOTDIR':
    case 'EISDIR':
    case 'ENAMETOOLONG':
      return new BackupError(
        'RepositoryUnusable',
        `Something stands in the way of ${path}: ${String(error)}; it was left as it is`,
        { cause: error },
      );
    case 'EIO':
    case 'ESTALE':
      return new BackupError('RepositoryUnusable', `The file system of ${path} fails: ${String(error)}`, {
        cause: error,
      });
    default:
      return undefined;
  }
}
