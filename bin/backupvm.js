#!/usr/bin/env -S UV_THREADPOOL_SIZE=64 node
// More threads than Node's 4: a call to a file system that hangs keeps its thread, and others must not wait for it.
import { existsSync } from 'node:fs';

const main = new URL('../dist/cli/main.js', import.meta.url);
if (existsSync(main)) {
  await import(main.href);
} else {
  process.stderr.write("Expected backupvm to be built, found no dist folder; run 'npm run build'\n");
  process.exitCode = 1;
}
