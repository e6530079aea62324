import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { BackupError } from '../../domain/errors.js';
import type { VMSummary } from '../source.js';
import { withQMP } from './client.js';
import { readState, readUUID } from './nodes.js';

/** One QMP socket: a VM that carries the socket's name. */
export interface Machine {
  name: string;
  qmpPath: string;
  /** Where the process serves NBD if it did so before we came. */
  nbdPath: string;
}

const suffix = '.qmp';

/**
 * The sockets that a `qmp:///path` names, by name in order: the `NAME.qmp` of a directory, or one socket.
 * @throws BackupError InvalidInput (not such a URI), SourceFailed (no such path)
 */
export async function listMachines(uri: string): Promise<Machine[]> {
  const path = pathOf(uri);
  let isDirectory: boolean;
  try {
    isDirectory = (await stat(path)).isDirectory();
  } catch (error) {
    throw new BackupError(
      'SourceFailed',
      `Expected a directory of QMP sockets, or one socket, at ${path}, found none`,
      {
        cause: error,
      },
    );
  }
  const directory = isDirectory ? path : dirname(path);
  const files = isDirectory ? (await readdir(path)).filter((file) => file.endsWith(suffix)).sort() : [basename(path)];
  return files.map((file) => {
    const name = basename(file, suffix);
    return { name, qmpPath: join(directory, file), nbdPath: join(directory, `${name}.nbd`) };
  });
}

function pathOf(uri: string): string {
  const path = /^qmp:\/\/(\/.+)$/.exec(uri)?.[1];
  if (path === undefined) {
    throw new BackupError('InvalidInput', `Expected a hypervisor URI such as qmp:///run/vms, found '${uri}'`);
  }
  return decodeURIComponent(path);
}

/** A VM whose socket nobody serves is shut off: then its UUID is not known, and it goes by its name. */
export async function summarize(machine: Machine, signal: AbortSignal): Promise<VMSummary> {
  const byName = { name: machine.name, vmId: `qmp:${machine.name}` };
  try {
    return await withQMP(machine.qmpPath, signal, async (qmp) => {
      const { state } = await readState(qmp);
      return { ...byName, vmId: (await readUUID(qmp)) ?? byName.vmId, state };
    });
  } catch (error) {
    if (!(error instanceof BackupError)) throw error;
    return { ...byName, state: error.code === 'VMNotRunning' ? 'shut off' : 'other' }; // one that hangs hides no other
  }
}

/** @throws BackupError VMNotFound */
export async function findByName(uri: string, name: string): Promise<Machine> {
  const machines = await listMachines(uri);
  const machine = machines.find((candidate) => candidate.name === name);
  if (machine) return machine;
  const known = machines.map((candidate) => candidate.name).join(', ') || 'none';
  throw new BackupError('VMNotFound', `Expected a VM '${name}' at ${uri}, found: ${known}`);
}

/** The VM with this id, or undefined. Asks each one only where the id is not a name. */
export async function findById(uri: string, vmId: string, signal: AbortSignal): Promise<Machine | undefined> {
  const machines = await listMachines(uri);
  const byName = machines.find(({ name }) => vmId === `qmp:${name}`);
  if (byName) return byName;
  for (const machine of machines) {
    if ((await summarize(machine, signal)).vmId === vmId) return machine;
  }
  return undefined;
}
