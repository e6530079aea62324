import { spawn } from 'node:child_process';
import { open, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { toolMissing } from '../process/run.js';
import { messageOf } from '../domain/message-of.js';

/** The account that a service runs as, where it must not run as ours. */
export interface ServiceAccount {
  uid: number;
  gid: number;
}

export interface ServiceOptions {
  program: string;
  args: readonly string[];
  /** Receives all that the service prints; replaced at each start. */
  logFile: string;
  stopSignal: 'SIGTERM' | 'SIGINT';
  account?: ServiceAccount | undefined;
}

export interface Service {
  /** Resolves, once it has ended for whatever reason, with how: `exit code 1`, `SIGKILL`. */
  readonly ended: Promise<string>;
  /** Asks it to end and waits until it has; may be called more than once. */
  stop: () => Promise<void>;
}

/** Starts a server as a child that ends with us, however we end, and that a Ctrl-C in our terminal does not reach. */
export async function startService({ program, args, logFile, stopSignal, account }: ServiceOptions): Promise<Service> {
  const log = await open(logFile, 'w', 0o600);
  const child = spawn('setpriv', [`--pdeathsig=${stopSignal}`, ...asAccount(account), '--', program, ...args], {
    cwd: '/', // ours may be closed to the account
    stdio: ['ignore', log.fd, log.fd],
    detached: true, // Ctrl-C goes to a whole process group; the worker needs the servers until it has stopped itself
  });
  const ended = new Promise<string>((resolve, reject) => {
    child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`));
    child.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'ENOENT' ? toolMissing('setpriv') : error),
    );
  });
  ended.catch(() => undefined); // whoever waits for it gets the error
  await log.close();
  const stop = async () => {
    child.kill(stopSignal);
    // Postgres writes a checkpoint before it ends, and a slow disk takes its time.
    const impatience = setTimeout(() => child.kill('SIGKILL'), 30_000);
    await ended.finally(() => clearTimeout(impatience));
  };
  return { ended, stop };
}

/** The arguments that make `setpriv` run a program as another account; none for our own. */
export function asAccount(account: ServiceAccount | undefined): string[] {
  return account ? [`--reuid=${account.uid}`, `--regid=${account.gid}`, '--clear-groups'] : [];
}

/**
 * Waits until `isReady` returns without throwing.
 * @throws Error with the last reason when the service ended or the time is up; the service is stopped then.
 */
export async function untilReady(service: Service, isReady: () => Promise<void>, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  let how: string | undefined;
  service.ended.then((text) => (how = text)).catch((error: unknown) => (how = String(error)));
  for (;;) {
    try {
      await isReady();
      return;
    } catch (error) {
      const reason = messageOf(error);
      if (how === undefined && Date.now() < deadline) {
        await delay(50); // short beside a start of half a second
        continue;
      }
      await service.stop();
      throw new Error(how === undefined ? `not ready within ${timeoutMs} ms: ${reason}` : `it ended with ${how}`, {
        cause: error,
      });
    }
  }
}

/** The last lines of a service's log, for error messages; empty when there is none. */
export async function logTail(logFile: string): Promise<string> {
  const text = await readFile(logFile, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-8).join('\n').slice(-2000);
}
