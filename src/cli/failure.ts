import { ApplicationFailure, CancelledFailure, TerminatedFailure, TimeoutFailure } from '@temporalio/common';
import { BackupError, errorCodes, type ErrorCode } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { Interrupted, type CommonOptions, type Terminal } from './terminal.js';

/** Exit codes that stand for no error code; the others are in `errorCodes`. docs/cli.md has the table. */
export const exitCodes = { ok: 0, unexpected: 1, usage: 2, interrupted: 130 } as const;

/** Says on standard error why a command failed. @returns the exit code */
export function reportFailure(error: unknown, terminal: Terminal, { json }: CommonOptions): number {
  const { code, exitCode, message } = describe(error);
  if (json) {
    terminal.stderr.write(`${JSON.stringify({ error: { code, message, exitCode } })}\n`);
  } else {
    const stack = error instanceof Error ? error.stack : undefined;
    terminal.stderr.write(`${code === 'Unexpected' ? `backupvm: unexpected: ${stack ?? message}` : message}\n`);
  }
  return exitCode;
}

function describe(error: unknown): { code: string; exitCode: number; message: string } {
  const message = messageOf(error);
  if (error instanceof BackupError) return { code: error.code, exitCode: errorCodes[error.code].exitCode, message };
  if (error instanceof Interrupted) return { code: 'Interrupted', exitCode: exitCodes.interrupted, message };
  return { code: 'Unexpected', exitCode: exitCodes.unexpected, message };
}

/**
 * Finds in the causes of a failed workflow what to tell people: the innermost failure with a code of ours, or else the end
 * that somebody made of it, or else the innermost failure there is. `nothingMade` tells what a cancelled one did not come to.
 */
export function describeWorkflowFailure(failure: unknown, workflowId: string, nothingMade: string): Error {
  const causes: Error[] = [];
  for (let current = failure; current instanceof Error; current = current.cause) causes.push(current);
  causes.reverse();
  for (const cause of causes) {
    if (cause instanceof ApplicationFailure && isErrorCode(cause.type)) {
      return new BackupError(cause.type, cause.message, { cause: failure });
    }
  }
  const end = causes.find((cause) => cause instanceof CancelledFailure || cause instanceof TerminatedFailure);
  if (end) {
    const how = end instanceof CancelledFailure ? 'cancelled' : 'terminated';
    return new BackupError('Cancelled', `The workflow was ${how}: '${workflowId}'; ${nothingMade}`);
  }
  const timeout = causes.find((cause) => cause instanceof TimeoutFailure);
  return (
    timeout ?? causes.find((cause) => cause instanceof ApplicationFailure) ?? causes[0] ?? new Error(String(failure))
  );
}

/** Whether a failure of a workflow has a code of ours. */
export function isErrorCode(type: string | null | undefined): type is ErrorCode {
  return typeof type === 'string' && type in errorCodes;
}
