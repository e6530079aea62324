import { runCLI } from './run-cli.js';
import { exitCodes } from './failure.js';

/** Ctrl-C ends the program, unless the command wants to end its work first; a second one ends it all the same. */
function onInterrupt(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (controller.signal.aborted) process.exit(exitCodes.interrupted);
      controller.abort();
    });
  }
  return controller.signal;
}

// `backupvm job list | head` closes our output early: nobody is left to read the rest.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(exitCodes.ok);
  throw error;
});

const exitCode = await runCLI(process.argv.slice(2), {
  env: process.env,
  stdout: process.stdout,
  stderr: process.stderr,
  onInterrupt,
});
process.exit(exitCode); // the SDK's native runtime would keep a process alive whose worker could not start
