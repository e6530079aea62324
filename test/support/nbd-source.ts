import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';

export interface NBDSource {
  /** The export that is the file of this name. */
  uriOf: (fileName: string) => string;
  stop: () => Promise<void>;
}

/** Serves all files of a directory over NBD, holes as holes. `filters` slow it down or make it fail. */
export async function serveDirectory(directory: string, filters: string[] = []): Promise<NBDSource> {
  const socketPath = `${directory}/nbd-${process.pid}-${Math.random().toString(36).slice(2, 8)}.sock`;
  const names = filters.filter((argument) => argument.startsWith('--filter='));
  const settings = filters.filter((argument) => !argument.startsWith('--filter='));
  const args = [
    '--exit-with-parent',
    '--readonly',
    '-U',
    socketPath,
    ...names,
    'file',
    `dir=${directory}`,
    ...settings,
  ];
  const child = spawn('nbdkit', args, { stdio: 'ignore' }); // it tells of each client that hangs up
  const ended = once(child, 'exit');
  await untilListening(socketPath);
  return {
    uriOf: (fileName) => `nbd+unix:///${encodeURIComponent(fileName)}?socket=${encodeURIComponent(socketPath)}`,
    stop: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Returns when something listens on the socket. */
export async function untilListening(socketPath: string): Promise<void> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await wait(5)) {
    const socket = createConnection(socketPath);
    try {
      await once(socket, 'connect');
      return;
    } catch {
      continue; // not there yet
    } finally {
      socket.destroy();
    }
  }
  throw new Error(`nobody listens on ${socketPath}`);
}

/** Writes the bytes as a sparse file: blocks of zeros become holes, as in the disk of a guest that trims. */
export async function writeSparse(file: string, bytes: Buffer): Promise<void> {
  const handle = await open(file, 'w');
  try {
    await handle.truncate(bytes.length);
    for (let offset = 0; offset < bytes.length; offset += 4096) {
      const block = bytes.subarray(offset, offset + 4096);
      if (block.some((byte) => byte !== 0)) await handle.write(block, 0, block.length, offset);
    }
  } finally {
    await handle.close();
  }
}
