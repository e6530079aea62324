/** Where a command reads from and writes to: the process itself, or a test. */
export interface Terminal {
  env: Readonly<Record<string, string | undefined>>;
  stdout: NodeJS.WritableStream & { isTTY?: boolean; columns?: number };
  stderr: NodeJS.WritableStream & { isTTY?: boolean };
  /** From the first call on, Ctrl-C and SIGTERM abort this signal instead of ending the program at once. */
  onInterrupt(): AbortSignal;
}

/** What a command came to: a document for programs, lines for people. */
export interface Output {
  document: unknown;
  text: string;
}

/** Every command knows `--json`. */
export interface CommonOptions {
  json?: true;
}

/** Ctrl-C: the command ends early, with exit code 130. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

/** Writes the end of a command: with `--json` one document and nothing else. */
export function print(terminal: Terminal, { json }: CommonOptions, { document, text }: Output): void {
  terminal.stdout.write(`${json ? JSON.stringify(document, null, 2) : text}\n`);
}

/** Writes a line while a command is at work; none with `--json`. */
export function printProgress(terminal: Terminal, { json }: CommonOptions, line: string): void {
  if (!json) terminal.stdout.write(`${line}\n`);
}

/** Whether standard output shows colours. */
export function hasColours({ env, stdout }: Terminal): boolean {
  return stdout.isTTY === true && !env['NO_COLOR'] && env['TERM'] !== 'dumb';
}
