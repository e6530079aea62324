import { ActivityFailure, ApplicationFailure, isCancellation, TimeoutFailure } from '@temporalio/workflow';
import { BackupError } from '../domain/errors.js';

/** What an activity, or a rule of ours, says went wrong: the type is the code of `BackupError`. */
export function applicationFailureIn(error: unknown): ApplicationFailure | undefined {
  if (error instanceof ApplicationFailure) return error;
  return error instanceof ActivityFailure ? applicationFailureIn(error.cause) : undefined;
}

function timeoutIn(error: unknown): TimeoutFailure | undefined {
  if (error instanceof TimeoutFailure) return error;
  return error instanceof ActivityFailure ? timeoutIn(error.cause) : undefined;
}

/** Whether beginning a copy anew may help: not after a permanent error, nor after a cancellation. */
export function mayBeRetried(error: unknown): boolean {
  if (isCancellation(error)) return false;
  const failure = applicationFailureIn(error);
  return failure ? !failure.nonRetryable : timeoutIn(error) !== undefined;
}

/**
 * The failure that closes the workflow: one message, the one that helps, at the top. A cancellation stays one; a mistake in
 * workflow code stays what it is, so that it fails the workflow task and can be mended while the workflow waits.
 */
export function closingFailure(error: unknown, host = 'unknown'): unknown {
  if (isCancellation(error)) return error;
  if (error instanceof BackupError)
    return ApplicationFailure.create({ type: error.code, message: error.message, nonRetryable: true });
  if (timeoutIn(error)?.timeoutType === 'SCHEDULE_TO_START') {
    const message = `Expected a worker of host '${host}', none took the first step within 2 minutes; start 'backupvm worker' there`;
    return ApplicationFailure.create({ type: 'HostNotUp', message, nonRetryable: true });
  }
  const failure = applicationFailureIn(error);
  if (!failure || !(error instanceof ActivityFailure)) return error;
  return ApplicationFailure.create({
    message: failure.message,
    type: failure.type ?? undefined,
    nonRetryable: true,
    cause: error,
  });
}

/** The words for the job's row. */
export function messageOf(error: unknown): string {
  if (isCancellation(error)) return 'cancelled';
  return error instanceof Error ? error.message : String(error);
}
