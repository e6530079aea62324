import { readFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../domain/errors.js';

/** One process, told apart from a later one with the same number, also after a reboot. */
export interface ProcessIdentity {
  pid: number;
  /** Clock ticks since boot, as the kernel writes it. */
  startTime: string;
  bootId: string;
}

/** The identity that a row holds, or undefined where none was recorded. */
export function recordedIdentity({
  pid,
  startTime,
  bootId,
}: {
  [Field in keyof ProcessIdentity]: ProcessIdentity[Field] | null;
}): ProcessIdentity | undefined {
  return pid === null || startTime === null || bootId === null ? undefined : { pid, startTime, bootId };
}

/** The identity of a process that lives now, or undefined when there is none. */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const [stat, bootId] = await Promise.all([readStat(pid), readBootId()]);
  return stat && !stat.isDead ? { pid, startTime: stat.startTime, bootId } : undefined;
}

/** Whether this very process still runs: a zombie does not, nor does another one that got its number. */
export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  const current = await identify(identity.pid);
  return current?.startTime === identity.startTime && current.bootId === identity.bootId;
}

export interface StopTimeouts {
  termTimeoutMs: number;
  killTimeoutMs: number;
}

/**
 * Ends a process and returns only when it is known dead. Safe to repeat; a stranger with the same number is spared.
 * @throws BackupError ExportFailed when it outlives SIGKILL (uninterruptible I/O), or may not be signalled
 */
export async function stopProcess(
  identity: ProcessIdentity,
  { termTimeoutMs, killTimeoutMs }: StopTimeouts,
): Promise<'gone' | 'terminated' | 'killed'> {
  if (!(await isAlive(identity))) return 'gone';
  send(identity, 'SIGTERM');
  if (await diesWithin(identity, termTimeoutMs)) return 'terminated';
  send(identity, 'SIGKILL');
  if (await diesWithin(identity, killTimeoutMs)) return 'killed';
  const state = (await readStat(identity.pid))?.state ?? '?';
  throw new BackupError(
    'ExportFailed',
    `Expected process ${identity.pid} to be dead ${killTimeoutMs} ms after SIGKILL, found it in state ${state}; see what storage it waits for`,
    { details: { pid: identity.pid, state } },
  );
}

function send({ pid }: ProcessIdentity, signal: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return; // died since we looked
    throw new BackupError('ExportFailed', `Expected to be allowed to send ${signal} to process ${pid}`, {
      cause: error,
      details: { pid },
    });
  }
}

async function diesWithin(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  // It may not be our child, so nobody tells us of its end; most end within a few ms.
  for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 2, 100)) {
    if (!(await isAlive(identity))) return true;
    if (Date.now() >= deadline) return false;
    await wait(pauseMs);
  }
}

interface ProcessStat {
  state: string;
  startTime: string;
  /** Processor time used so far, in clock ticks. */
  cpuTicks: number;
  isDead: boolean;
}

/** The processor time that a process has used, in clock ticks, or undefined when it is gone: stands still when it waits. */
export async function cpuTicks(pid: number): Promise<number | undefined> {
  return (await readStat(pid))?.cpuTicks;
}

async function readStat(pid: number): Promise<ProcessStat | undefined> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, 'latin1');
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
  return parseStat(text);
}

/** Reads state, processor time and start time: fields 3, 14 and 15, 22. The name in field 2 may itself hold spaces and parentheses. */
export function parseStat(text: string): ProcessStat {
  const fields = text
    .slice(text.lastIndexOf(')') + 1)
    .trim()
    .split(' ');
  const state = fields[0];
  const startTime = fields[19];
  if (!state || !startTime) throw new TypeError(`Expected the fields of /proc/PID/stat, got '${text}'`);
  // An orphan can stay a zombie for seconds where process 1 is slow to reap: it holds no file and no port any more.
  const cpuTicks = Number(fields[11]) + Number(fields[12]);
  return { state, startTime, cpuTicks, isDead: state === 'Z' || state === 'X' };
}

async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).trim();
}
