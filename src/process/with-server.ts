import { readFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { execa } from 'execa';
import { BackupError } from '../domain/errors.js';
import { missingBySetpriv, type Program } from './run.js';

/** It opens a socket, and nothing else. */
const startTimeoutMs = 30_000;

export interface Server {
  program: Program;
  args: readonly string[];
  /** That the program writes once it listens. */
  pidFile: string;
  signal: AbortSignal;
}

/**
 * Lets a program serve while `use` runs, and no longer: it is killed at the end, and when this process dies.
 * @param use is told what the server has said so far
 * @throws BackupError ToolMissing, ToolFailed (it did not begin to listen); `signal.reason`; or what `use` throws
 */
export async function withServer<T>(
  { program, args, pidFile, signal }: Server,
  use: (said: () => string) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const server = execa('setpriv', ['--pdeathsig', 'KILL', program, ...args], {
    reject: false,
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { LC_ALL: 'C' },
  });
  let said = '';
  server.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2000)));
  let hasEnded = false;
  void server.finally(() => (hasEnded = true));
  try {
    const deadline = Date.now() + startTimeoutMs;
    while ((await readFile(pidFile, 'latin1').catch(() => '')) === '') {
      signal.throwIfAborted();
      if (hasEnded || Date.now() > deadline) throw await failure();
      await wait(5);
    }
    return await use(() => said.trim());
  } finally {
    server.kill('SIGKILL'); // SIGTERM it would only heed once its own source has answered
    await server;
  }

  async function failure(): Promise<BackupError> {
    if (!hasEnded) return new BackupError('ToolFailed', `${program} did not listen within ${startTimeoutMs} ms`);
    const ended = new BackupError('ToolFailed', `${program} ended right after its start: ${said.trim()}`);
    return missingBySetpriv(program, await server) ?? ended;
  }
}
