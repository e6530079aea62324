import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { BackupError } from '../domain/errors.js';
import { identify, type ProcessIdentity } from './identity.js';
import { missingBySetpriv, unlessItHangs, type Outcome, type Program } from './run.js';

/** The file descriptor on which the program reports. */
export const progressFD = 3;

export interface RunWithProgressOptions {
  /** Ends the program, at the latest 10 s later; it runs as long as it must otherwise, so a caller bounds it with this. */
  signal: AbortSignal;
  /** Hears who it is; when it throws, the program is killed. */
  onStart?: ((identity: ProcessIdentity) => Promise<void>) | undefined;
  onLine: (line: string) => void;
  /** Where a program reports that knows its standard output only. */
  reportsOnStdout?: boolean;
}

/**
 * Runs one program to its end, passing on each line that it writes to `progressFD`. It is killed when this process dies:
 * a copy that nobody watches would write on into a file that the next attempt owns.
 * @returns also when the exit code is not 0
 * @throws BackupError ToolMissing, ToolFailed (killed by somebody else); or `signal.reason`
 */
export async function runWithProgress(
  program: Program,
  args: readonly string[],
  options: RunWithProgressOptions,
): Promise<Outcome> {
  return runCommand(program, [program, ...args], options);
}

/** The same for any command; `program` is what it is called in errors. */
export async function runCommand(
  program: Program,
  command: readonly string[],
  { signal, onStart, onLine, reportsOnStdout = false, cwd }: RunWithProgressOptions & { cwd?: string },
): Promise<Outcome> {
  signal.throwIfAborted();
  const child = execa('setpriv', ['--pdeathsig', 'KILL', ...command], {
    cwd,
    reject: false,
    stdio: ['ignore', reportsOnStdout ? 'pipe' : 'ignore', 'pipe', 'pipe'],
    env: { LC_ALL: 'C' },
    cancelSignal: signal,
    forceKillAfterDelay: 10_000,
    detached: true, // leads a group of its own
  });
  // What it started and left would keep us waiting at its pipes: a `qemu-img map` of the hasher's, whose storage hangs.
  child.once('exit', () => killGroup(child.pid));
  const lines = createInterface({ input: child.stdio[reportsOnStdout ? 1 : progressFD] ?? child.stdio[progressFD] });
  lines.on('line', onLine);
  const lastLineRead = once(lines, 'close');
  if (onStart && child.pid !== undefined) {
    const identity = await identify(child.pid); // setpriv becomes the program: same number, same start time
    try {
      if (identity) await onStart(identity);
    } catch (error) {
      child.kill('SIGKILL');
      await child;
      throw error;
    }
  }
  const result = await unlessItHangs(child, { signal });
  if (!result) throw signal.reason; // it outlives SIGKILL, and holds its pipes
  if (child.pid !== undefined) await lastLineRead;
  signal.throwIfAborted();
  const missing = missingBySetpriv(program, result);
  if (missing) throw missing;
  if (result.exitCode === undefined) {
    throw new BackupError(
      'ToolFailed',
      `${program} was ended by ${result.signal ?? 'an error'}: ${result.shortMessage}`,
    );
  }
  return { exitCode: result.exitCode, stdout: '', stderr: String(result.stderr) };
}

function killGroup(leader: number | undefined): void {
  if (leader === undefined) return;
  try {
    process.kill(-leader, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // nobody is left: the usual case
  }
}
