import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { addBackupCommand } from './backup.js';
import { usageError } from './command.js';
import { addDeleteCommand } from './delete.js';
import { addDevCommand } from './dev.js';
import { exitCodes, reportFailure } from './failure.js';
import { addHypervisorCommands } from './hypervisor.js';
import { addJobCommands } from './job.js';
import { addKeptCommands } from './kept.js';
import { addPointCommands } from './point.js';
import { addPolicyCommands } from './policy.js';
import { addPruneCommand } from './prune.js';
import { addReconcileCommand } from './reconcile.js';
import { addRepositoryCommands } from './repository.js';
import { addRestoreCommand } from './restore.js';
import { addSetupCommand } from './setup.js';
import type { Terminal } from './terminal.js';
import { addVerifyCommand } from './verify.js';
import { addVMCommands } from './vm.js';
import { addWorkerCommand } from './worker.js';

/** Runs one command line, `argv` without the program's name. Never throws. @returns the exit code */
export async function runCLI(argv: readonly string[], terminal: Terminal): Promise<number> {
  try {
    await createProgram(terminal).parseAsync([...argv], { from: 'user' });
    return exitCodes.ok;
  } catch (error) {
    // What is left of commander's errors has printed a help page: one that was asked for, or for want of a command.
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    return reportFailure(error, terminal, { json: argv.includes('--json') ? true : undefined });
  }
}

/** All commands. */
export function createProgram(terminal: Terminal): Command {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const program = new Command('backupvm')
    .description('Image-level backup of virtual machines as durable Temporal workflows')
    .version(version)
    .configureOutput({
      writeOut: (text) => terminal.stdout.write(text),
      writeErr: (text) => terminal.stderr.write(text),
      outputError: () => undefined, // reportFailure prints all errors, so that --json holds for these, too
    })
    .exitOverride((error) => {
      throw usageError(error, 'backupvm');
    })
    .addHelpText('after', `\nExit codes and examples: docs/cli.md. Variables: docs/configuration.md`);
  addDevCommand(program, terminal);
  addSetupCommand(program, terminal);
  addWorkerCommand(program, terminal);
  addHypervisorCommands(program, terminal);
  addRepositoryCommands(program, terminal);
  addVMCommands(program, terminal);
  addBackupCommand(program, terminal);
  addRestoreCommand(program, terminal);
  addVerifyCommand(program, terminal);
  addJobCommands(program, terminal);
  addPointCommands(program, terminal);
  addPolicyCommands(program, terminal);
  addPruneCommand(program, terminal);
  addDeleteCommand(program, terminal);
  addKeptCommands(program, terminal);
  addReconcileCommand(program, terminal);
  return program;
}
