import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Outcome } from './run.js';
import { runCommand, type RunWithProgressOptions } from './run-with-progress.js';

/**
 * Runs a module of ours in a process of its own, with one argument, as `runWithProgress` runs a program. Work that would keep
 * this process from everything else belongs there.
 * @throws BackupError ToolFailed; or `signal.reason`
 */
export async function runModule(module: URL, argument: unknown, options: RunWithProgressOptions): Promise<Outcome> {
  const path = fileURLToPath(module);
  // From source there is TypeScript to load; `tsx` is looked for from the module on, wherever we were started.
  const loader = path.endsWith('.ts') ? ['--import', 'tsx'] : [];
  const command = [process.execPath, ...loader, path, JSON.stringify(argument)];
  return runCommand('node', command, { ...options, cwd: dirname(path) });
}
