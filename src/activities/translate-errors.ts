import { ApplicationFailure, CancelledFailure } from '@temporalio/activity';
import type { ActivityInboundCallsInterceptor } from '@temporalio/worker';
import { describeDatabaseFailure } from '../db/database.js';
import { BackupError } from '../domain/errors.js';
import { describeFileFailure } from '../repository/file-errors.js';

/** Turns what activities throw into Temporal's failures, in this one place: the type is our code, and it decides about retries. */
export function translateErrors(databaseAddress: string): ActivityInboundCallsInterceptor {
  return {
    async execute(input, next) {
      try {
        return await next(input);
      } catch (error) {
        throw translate(error, databaseAddress);
      }
    },
  };
}

function translate(error: unknown, databaseAddress: string): unknown {
  if (error instanceof CancelledFailure || error instanceof ApplicationFailure) return error;
  const known =
    error instanceof BackupError
      ? error
      : (describeDatabaseFailure(error, databaseAddress) ?? describeFileFailure(error));
  if (known) {
    const { code: type, message, permanent: nonRetryable, details } = known;
    return ApplicationFailure.create({
      type,
      message,
      nonRetryable,
      details: details ? [details] : undefined,
      cause: known,
    });
  }
  // A mistake in our code does not go away by trying again, and must not look like a backup that still runs.
  if (error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError) {
    return ApplicationFailure.create({ type: error.name, message: error.message, nonRetryable: true, cause: error });
  }
  return error;
}
