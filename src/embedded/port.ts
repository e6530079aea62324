import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { BackupError } from '../domain/errors.js';

/** A TCP port that was free on 127.0.0.1 a moment ago. */
export async function freePort(): Promise<number> {
  return listenBriefly(0);
}

/**
 * Makes sure that a server of ours can have a port: a stranger who answers there would look like ours.
 * @throws BackupError InUse
 */
export async function assertPortFree(port: number, server: string): Promise<void> {
  try {
    await listenBriefly(port);
  } catch (cause) {
    throw new BackupError(
      'InUse',
      `Expected port ${port} on 127.0.0.1 to be free for ${server}, found it taken; stop what listens there, or choose another port`,
      { cause },
    );
  }
}

/** Listens on a port of 127.0.0.1 for a moment; 0 means any. @throws what the kernel says when it is taken */
export async function listenBriefly(wanted: number): Promise<number> {
  const server = createServer().listen(wanted, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
