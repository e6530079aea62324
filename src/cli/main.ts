import { exitCodes } from './failure.js';
import { runCLI } from './run-cli.js';

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

/** Waits until all output has left: a pipe takes 64 KiB at a time, and `process.exit` drops what is still to be written. */
async function untilWritten(stream: NodeJS.WriteStream): Promise<void> {
  await new Promise((resolve) => stream.write('', resolve));
}

// `backupvm job list | head` closes our output early, and no one reads the rest.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(exitCodes.ok);
  throw error;
});

// Disks, their backups and their definitions hold secrets: what we or our children make is closed to other users.
process.umask(0o077);

const exitCode = await runCLI(process.argv.slice(2), {
  env: process.env,
  stdout: process.stdout,
  stderr: process.stderr,
  onInterrupt,
});
await Promise.all([process.stdout, process.stderr].map(untilWritten));
process.exit(exitCode); // the SDK's native runtime would keep a process alive whose worker could not start
