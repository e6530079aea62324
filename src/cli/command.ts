import { InvalidArgumentError, type Command, type CommanderError } from 'commander';
import { BackupError } from '../domain/errors.js';

/** A command that does something itself: with `--json`, an example in its help, and usage errors that name it. */
export function addCommand(parent: Command, nameAndArguments: string, summary: string, example: string): Command {
  return addGroup(parent, nameAndArguments, summary)
    .option('--json', 'print one JSON document, for programs')
    .addHelpText('after', `\nExample:\n  $ backupvm ${example}`);
}

/** A command that only holds others, such as `hypervisor`. */
export function addGroup(parent: Command, nameAndArguments: string, summary: string): Command {
  const command = parent.command(nameAndArguments).summary(summary).description(summary);
  return command.exitOverride((error) => {
    throw usageError(error, commandPath(command));
  });
}

/** Turns commander's usage errors into ours; its other ends (help, version) stay. */
export function usageError(error: CommanderError, path: string): Error {
  if (/^commander\.(help|helpDisplayed|version)$/.test(error.code)) return error;
  const said = error.message
    .replace(/^error: /, '')
    .replaceAll(/\s*\n\s*/g, ' ')
    .replace(/\.$/, '');
  return new BackupError('InvalidInput', `${path}: ${said}; see '${path} --help'`);
}

function commandPath(command: Command): string {
  return command.parent ? `${commandPath(command.parent)} ${command.name()}` : command.name();
}

/** A name to register something under: as long as workflows take it. */
export function parseName(value: string): string {
  if (value !== '' && value.length <= 200 && !/\p{Cc}/u.test(value)) return value;
  throw new InvalidArgumentError('Expected a name of 1 to 200 characters without control characters.');
}

/** A whole number from 1 to `max`. */
export function parseCount(max: number): (value: string) => number {
  return (value) => {
    if (/^[1-9]\d*$/.test(value) && Number(value) <= max) return Number(value);
    throw new InvalidArgumentError(`Expected a whole number from 1 to ${max}.`);
  };
}
