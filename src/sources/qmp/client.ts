import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as wait } from 'node:timers/promises';
import { z } from 'zod';
import { BackupError } from '../../domain/errors.js';

/** A QMP server speaks with one client at a time: the others get its greeting when their turn comes. */
const greetingTimeoutMs = 30_000;
/** A transaction waits for the guest's I/O that is under way, which may wait for slow storage. */
const commandTimeoutMs = 60_000;

const message = z.object({
  QMP: z.unknown().optional(),
  id: z.number().optional(),
  return: z.unknown().optional(),
  error: z.object({ class: z.string(), desc: z.string() }).optional(),
});
type Message = z.infer<typeof message>;

export interface QMPClient {
  /** @throws BackupError SourceFailed; `details.class` and `details.desc` hold what QEMU said */
  execute(command: string, args?: Record<string, unknown>): Promise<unknown>;
}

/**
 * Runs `work` with a connection of its own, which is closed afterwards: what QEMU was told to do goes on.
 * @throws BackupError VMNotRunning when nobody listens there, SourceFailed when QEMU does not answer; or `signal.reason`
 */
export async function withQMP<T>(
  socketPath: string,
  signal: AbortSignal,
  work: (client: QMPClient) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const socket = await connect(socketPath, signal);
  const abort = () => socket.destroy();
  signal.addEventListener('abort', abort);
  try {
    return await work(await handshake(socket, socketPath));
  } catch (error) {
    signal.throwIfAborted(); // then the error is only that the connection is gone
    throw error;
  } finally {
    signal.removeEventListener('abort', abort);
    socket.destroy();
  }
}

async function connect(socketPath: string, signal: AbortSignal): Promise<Socket> {
  for (const deadline = Date.now() + greetingTimeoutMs; ; await wait(100, undefined, { signal })) {
    const socket = createConnection(socketPath);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      socket.destroy();
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') {
        throw new BackupError(
          'VMNotRunning',
          `Expected a running VM to listen on ${socketPath}, found none; start it`,
          {
            cause: error,
          },
        );
      }
      // Somebody speaks with it, and others wait: this VM runs.
      if (Date.now() > deadline) {
        throw new BackupError(
          'SourceFailed',
          `Expected to be connected to ${socketPath} within ${greetingTimeoutMs} ms, found others connected and waiting all the time; see who holds the monitor`,
          { cause: error },
        );
      }
    }
  }
}

async function handshake(socket: Socket, socketPath: string): Promise<QMPClient> {
  const waiting = new Map<number | 'greeting', (answer: Message | Error) => void>();
  const failAll = (error: Error) => {
    for (const settle of waiting.values()) settle(error);
  };
  socket.on('error', failAll);
  socket.on('close', () => failAll(new Error('the connection was closed')));
  const lines = createInterface({ input: socket });
  lines.on('error', failAll); // it passes on those of the socket, and one that nobody hears ends the process
  lines.on('line', (line) => {
    const parsed = message.safeParse(parseJSON(line));
    if (!parsed.success) return failAll(new Error(`it is no QMP server: it said '${line.slice(0, 200)}'`));
    const answer = parsed.data;
    waiting.get(answer.QMP ? 'greeting' : (answer.id ?? -1))?.(answer); // events have neither
  });

  async function answerTo(id: number | 'greeting', what: string, timeoutMs: number): Promise<Message> {
    let timer: NodeJS.Timeout | undefined;
    const answer = await new Promise<Message | Error>((resolve) => {
      waiting.set(id, resolve);
      timer = setTimeout(() => resolve(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
      if (socket.destroyed) resolve(new Error('the connection was closed'));
    });
    clearTimeout(timer);
    waiting.delete(id);
    const said = answer instanceof Error ? { class: 'NoAnswer', desc: answer.message } : answer.error;
    if (!said && !(answer instanceof Error)) return answer;
    throw new BackupError('SourceFailed', `QMP ${what} on ${socketPath} failed: ${said?.desc}`, {
      details: { ...said },
    });
  }

  let lastId = 0;
  async function execute(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    const id = ++lastId;
    const answer = answerTo(id, command, commandTimeoutMs);
    if (!socket.destroyed) socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    return (await answer).return;
  }

  await answerTo('greeting', 'greeting', greetingTimeoutMs);
  await execute('qmp_capabilities');
  return { execute };
}

function parseJSON(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
