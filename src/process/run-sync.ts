import { spawnSync } from 'node:child_process';
import { BackupError } from '../domain/errors.js';
import type { Program } from './run.js';

/**
 * Runs one external program to its end, and waits for it: only for a process of ours that does nothing else. Loads nothing,
 * so that such a process starts at once.
 * @throws BackupError ToolFailed, also for an exit code other than 0, with what the program said
 */
export function runSync(program: Program, args: readonly string[], { timeoutMs }: { timeoutMs: number }): string {
  const result = spawnSync(program, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
    encoding: 'utf8',
    timeout: timeoutMs,
    maxBuffer: 512 * 1024 * 1024,
  });
  if (result.status === 0 && !result.error) return result.stdout;
  const said = result.error?.message ?? (result.stderr.trim() || `ended by ${result.signal ?? 'nobody'}`);
  throw new BackupError('ToolFailed', `${program} ${args[0] ?? ''} failed: ${said.slice(0, 2000)}`);
}
