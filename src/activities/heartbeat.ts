import { Context } from '@temporalio/activity';

/** Twice within the shortest throttle, so that no beat is late. */
const intervalMs = 1_000;

/**
 * Runs a step with heartbeats from a timer, not from progress: a copy that stands still is no dead worker. Without them a
 * cancellation would not arrive. `details` is asked at each beat.
 */
export async function heartbeating<T>(
  step: (signal: AbortSignal) => Promise<T>,
  details: () => unknown = () => undefined,
): Promise<T> {
  const context = Context.current();
  const timer = setInterval(() => context.heartbeat(details()), intervalMs);
  try {
    return await step(context.cancellationSignal);
  } finally {
    clearInterval(timer);
  }
}
