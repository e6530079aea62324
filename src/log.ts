import { DefaultLogger, Runtime, type LogLevel as SDKLogLevel } from '@temporalio/worker';
import { pino, type Logger } from 'pino';
import type { LogLevel } from './config/config.js';

/** One stream of JSON lines on stderr: ours, and the SDK's through it. To be called once per process, before any worker. */
export function startLog(level: LogLevel): Logger {
  const log = pino(
    { level, base: undefined, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
  const logger = new DefaultLogger(level.toUpperCase() as SDKLogLevel, ({ level: sdkLevel, message, meta }) => {
    // sdkComponent stays: it tells the core's lines from those of workflows and activities.
    log[sdkLevel.toLowerCase() as LogLevel](meta ?? {}, message);
  });
  Runtime.install({ logger, telemetryOptions: { logging: { filter: { core: 'WARN', other: 'ERROR' }, forward: {} } } });
  return log;
}
