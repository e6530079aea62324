import { access, chmod, constants, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { until } from '../support/until.js';

/** A directory for PATH whose nbdcopy waits, before it copies, as long as the file `hold` is there. */
function binDirectory(directory: string): string {
  return join(directory, 'bin');
}

/**
 * The PATH of a process whose copies can be held. A small copy is over within milliseconds, too fast to be stopped from outside
 * at the right moment: so it is held before it begins.
 */
export async function pathWithHeldCopies(directory: string): Promise<string> {
  const bin = binDirectory(directory);
  const wrapper = join(bin, 'nbdcopy');
  const path = process.env['PATH'] ?? '';
  await mkdir(bin, { recursive: true });
  const script = `while [ -e '${join(bin, 'hold')}' ]; do sleep 0.02; done\nexec '${await find('nbdcopy', path)}' "$@"\n`;
  await writeFile(wrapper, `#!/bin/sh\n${script}`);
  await chmod(wrapper, 0o755);
  return `${bin}${delimiter}${path}`;
}

/** Holds the next copy that begins, does `whileHeld`, and lets it go. */
export async function holdNextCopy(directory: string, whileHeld: () => void): Promise<void> {
  const bin = binDirectory(directory);
  const hold = join(bin, 'hold');
  await writeFile(hold, '');
  try {
    await until('a copy to be held', () => isHeld(join(bin, 'nbdcopy')));
    whileHeld();
  } finally {
    await rm(hold);
  }
}

async function isHeld(wrapper: string): Promise<boolean> {
  const pids = (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry));
  const commandLines = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')), // one that has ended
  );
  return commandLines.some((line) => line.startsWith(`/bin/sh\0${wrapper}\0`));
}

async function find(program: string, path: string): Promise<string> {
  for (const directory of path.split(delimiter)) {
    const file = join(directory, program);
    const isThere = await access(file, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isThere) return file;
  }
  throw new Error(`found no ${program} on PATH; install the Debian package 'libnbd-bin'`);
}
