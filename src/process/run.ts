import { execa } from 'execa';
import { BackupError } from '../domain/errors.js';

/** Debian package of each external program, named when the program is missing. */
const debianPackage = {
  'qemu-img': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-storage-daemon': 'qemu-system-common',
  nbdcopy: 'libnbd-bin',
  nbdinfo: 'libnbd-bin',
  nbdkit: 'nbdkit',
  node: 'nodejs',
  virsh: 'libvirt-clients',
  libvirtd: 'libvirt-daemon',
  virtlogd: 'libvirt-daemon',
  'apt-cache': 'apt',
  'apt-get': 'apt',
  'dpkg-deb': 'dpkg',
  cmp: 'diffutils',
  cpio: 'cpio',
  debugfs: 'e2fsprogs',
  ldd: 'libc-bin',
  mount: 'mount',
  umount: 'mount',
  cat: 'coreutils',
  mkdir: 'coreutils',
  stat: 'coreutils',
  openssl: 'openssl',
  setpriv: 'util-linux',
  getent: 'libc-bin',
  useradd: 'passwd',
} as const;

export type Program = keyof typeof debianPackage;

export interface RunOptions {
  /** Kills the program, with SIGKILL `10 s` after SIGTERM; `run` then throws the signal's reason. */
  signal?: AbortSignal;
  /** The longest that this call may take at all, in ms. */
  timeoutMs: number;
  cwd?: string;
  input?: string;
}

/** How a program ended that ran to its end. */
export interface Outcome {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs one external program to its end: arguments as an array, never a shell; messages in English.
 * @returns also when the exit code is not 0: what that means is for the caller to say.
 * @throws BackupError ToolMissing (names the Debian package), ToolFailed (timeout, killed); or `signal.reason`
 */
export async function run(program: Program, args: readonly string[], options: RunOptions): Promise<Outcome> {
  options.signal?.throwIfAborted();
  const running = execa(program, args, {
    reject: false,
    stdin: options.input === undefined ? 'ignore' : 'pipe',
    input: options.input,
    cwd: options.cwd,
    env: { LC_ALL: 'C' },
    timeout: options.timeoutMs,
    cancelSignal: options.signal,
    forceKillAfterDelay: killDelayMs,
    maxBuffer: 512 * 1024 * 1024, // nbdinfo maps of very fragmented disks
  });
  const result = await unlessItHangs(running, options);
  if (options.signal?.aborted) throw options.signal.reason;
  if (!result) throw new BackupError('ToolFailed', `${program} outlives SIGKILL: it waits for storage that hangs`);
  if (result.code === 'ENOENT' && result.exitCode === undefined) throw toolMissing(program);
  // Exit code 0 is not success where our time was up, or where not all of the output arrived: some programs exit well on SIGTERM.
  if (result.exitCode === undefined || (result.failed && result.exitCode === 0)) {
    throw new BackupError(
      'ToolFailed',
      `${program} ${result.timedOut ? `took longer than ${options.timeoutMs} ms` : `was ended by ${result.signal ?? 'an error'}`}: ${result.shortMessage}`,
    );
  }
  return { exitCode: result.exitCode, stdout: result.stdout ?? '', stderr: result.stderr };
}

/** What is missing where a program came to nothing that was started by setpriv; undefined when both were there. */
export function missingBySetpriv(
  program: Program,
  { code, exitCode }: { code?: string | undefined; exitCode?: number | undefined },
): BackupError | undefined {
  if (code === 'ENOENT' && exitCode === undefined) return toolMissing('setpriv');
  return exitCode === 127 ? toolMissing(program) : undefined; // setpriv says so
}

/** From SIGTERM to SIGKILL, and from there to the end of our patience. */
const killDelayMs = 10_000;
const giveUpDelayMs = 5_000;

/**
 * Waits for a program that is killed when its time is up or its signal says so. @returns undefined when it outlives that: it
 * waits, uninterruptibly, for a file system that hangs, and whoever waited for it would hang, too
 */
export async function unlessItHangs<T>(
  running: Promise<T>,
  { signal, timeoutMs }: { signal?: AbortSignal | undefined; timeoutMs?: number },
): Promise<T | undefined> {
  const timers: NodeJS.Timeout[] = [];
  let onAbort: (() => void) | undefined;
  const patience = new Promise<undefined>((resolve) => {
    const giveUpAfter = (ms: number) =>
      timers.push(setTimeout(() => resolve(undefined), ms + killDelayMs + giveUpDelayMs).unref());
    if (timeoutMs !== undefined) giveUpAfter(timeoutMs);
    onAbort = () => giveUpAfter(0);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([running, patience]);
  } finally {
    for (const timer of timers) clearTimeout(timer);
    if (onAbort) signal?.removeEventListener('abort', onAbort);
  }
}

/** As `run`, but any exit code except 0 is an error that carries what the program said, and the exit code in its details. */
export async function runOrThrow(program: Program, args: readonly string[], options: RunOptions): Promise<Outcome> {
  const outcome = await run(program, args, options);
  if (outcome.exitCode !== 0) {
    const said = (outcome.stderr || outcome.stdout).trim().slice(0, 2000);
    throw new BackupError(
      'ToolFailed',
      `${program} ${args[0] ?? ''} failed with exit code ${outcome.exitCode}: ${said}`,
      { details: { exitCode: outcome.exitCode } },
    );
  }
  return outcome;
}

/** Runs a program that prints one JSON document, and reads that. @throws BackupError as `runOrThrow`; ToolFailed also when it is cut off */
export async function runForJSON(program: Program, args: readonly string[], options: RunOptions): Promise<unknown> {
  const { stdout } = await runOrThrow(program, args, options);
  return parseOutput(program, args, stdout);
}

/** The JSON document that a program printed. @throws BackupError ToolFailed: it may be cut off, or empty, whatever its exit code said */
export function parseOutput(program: Program, args: readonly string[], stdout: string): unknown {
  try {
    return JSON.parse(stdout);
  } catch (cause) {
    const found = stdout === '' ? 'nothing' : `${stdout.length} characters that end '${stdout.slice(-100)}'`;
    throw new BackupError('ToolFailed', `${program} ${args[0] ?? ''} printed no whole JSON document: ${found}`, {
      cause,
    });
  }
}

export function toolMissing(program: Program): BackupError {
  return new BackupError(
    'ToolMissing',
    `Expected the program '${program}' on PATH, found none; install the Debian package '${debianPackage[program]}'`,
  );
}
