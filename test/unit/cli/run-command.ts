import { Writable } from 'node:stream';
import { runCLI } from '../../../src/cli/run-cli.js';
import type { Terminal } from '../../../src/cli/terminal.js';

export interface CommandOutcome {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** What a command with `--json` printed. A command that failed says why, not that its empty output is no JSON. */
export function documentOf<T = Record<string, unknown>>({ exitCode, stdout, stderr }: CommandOutcome): T {
  if (exitCode !== 0) throw new Error(`Expected exit code 0, found ${exitCode}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

/** A terminal that keeps what is written to it. */
export function recordTerminal(env: Terminal['env'], interrupt?: AbortSignal) {
  const written = { stdout: '', stderr: '' };
  const record = (name: 'stdout' | 'stderr') =>
    new Writable({
      decodeStrings: false,
      write(text: string, _encoding, done) {
        written[name] += text;
        done();
      },
    });
  const terminal: Terminal = {
    env,
    stdout: record('stdout'),
    stderr: record('stderr'),
    onInterrupt: () => interrupt ?? new AbortController().signal,
  };
  return { terminal, written };
}

/** Runs one command line in this process. */
export async function runCommand(
  argv: readonly string[],
  env: Terminal['env'],
  interrupt?: AbortSignal,
): Promise<CommandOutcome> {
  const { terminal, written } = recordTerminal(env, interrupt);
  const exitCode = await runCLI(argv, terminal);
  return { exitCode, ...written };
}
