import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { BackupError } from '../domain/errors.js';

export interface MachineIdFiles {
  /** systemd's; a container has none, or an empty one. */
  system: string;
  /** Where an id that we made is kept. */
  own: string;
}

const defaultFiles: MachineIdFiles = {
  system: '/etc/machine-id',
  own:
    process.getuid?.() === 0
      ? '/var/lib/backupvm/machine-id' // docker-compose.yml keeps this directory on the machine
      : join(homedir(), '.local', 'share', 'backupvm', 'machine-id'),
};

/**
 * What tells this machine from every other one, also after a reboot: the id in /etc/machine-id, else one of our own, made at
 * the first call. Several calls at once agree on it.
 * @throws BackupError InvalidConfiguration when there is none, and none can be kept
 */
export function readMachineId(files: MachineIdFiles = defaultFiles): string {
  return readId(files.system) ?? readId(files.own) ?? makeId(files);
}

/** Undefined also for what is no id: `uninitialized`, an empty file, zeros. */
function readId(path: string): string | undefined {
  try {
    const text = readFileSync(path, 'latin1').trim();
    return /^(?!0{32})[0-9a-f]{32}$/.test(text) ? text : undefined;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

function makeId({ system, own }: MachineIdFiles): string {
  let problem = 'the file is there, and holds no such id';
  try {
    keepId(own, randomBytes(16).toString('hex'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') problem = String(error);
  }
  const kept = readId(own);
  if (kept !== undefined) return kept;
  throw new BackupError(
    'InvalidConfiguration',
    `Expected an id of this machine, 32 hex digits, in ${system}, or to keep one in ${own}: ${problem}; run 'systemd-machine-id-setup', or put one there`,
  );
}

function keepId(path: string, id: string): void {
  // Whatever the umask says: QEMU's user has to pass the same directory on its way to the scratch files.
  if (mkdirSync(dirname(path), { recursive: true }) !== undefined) chmodSync(dirname(path), 0o711);
  const draft = `${path}.${id}`;
  const file = openSync(draft, 'wx', 0o600);
  try {
    writeSync(file, `${id}\n`);
    fsyncSync(file);
    linkSync(draft, path); // whole or not at all, and never over another worker's
  } finally {
    closeSync(file);
    rmSync(draft, { force: true });
  }
}
