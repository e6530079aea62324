import { Client, Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import type { NativeConnection, NativeConnectionOptions } from '@temporalio/worker';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';

// The connection's settings come from TEMPORAL_* and the profile file, exactly as for the `temporal` CLI.

/** Of the SDK. */
const defaultAddress = 'localhost:7233';

/** A client for commands. @throws BackupError TemporalUnreachable, InvalidConfiguration */
export async function connectClient(): Promise<{
  client: Client;
  connection: Connection;
  namespace: string;
  address: string;
}> {
  const { connectionOptions, namespace = 'default' } = readSettings();
  const address = connectionOptions.address ?? defaultAddress;
  const options = { ...connectionOptions, connectTimeout: '10s' as const };
  const connection = await orUnreachable(options.address, () => Connection.connect(options));
  return { client: new Client({ connection, namespace }), connection, namespace, address };
}

/**
 * A connection for workers, made by `connect` of the worker package: it loads a native core, which commands do without.
 * @throws BackupError TemporalUnreachable, InvalidConfiguration
 */
export async function connectWorker(
  connect: (options: NativeConnectionOptions) => Promise<NativeConnection>,
): Promise<{ connection: NativeConnection; namespace: string; address: string }> {
  const { connectionOptions, namespace = 'default' } = readSettings();
  const connection = await orUnreachable(connectionOptions.address, () => connect(connectionOptions));
  return { connection, namespace, address: connectionOptions.address ?? defaultAddress };
}

function readSettings() {
  try {
    return loadClientConnectConfig();
  } catch (error) {
    const said = messageOf(error);
    throw new BackupError(
      'InvalidConfiguration',
      `Expected TEMPORAL_* or a profile file that the Temporal CLI understands, found: ${said}`,
      {
        cause: error,
      },
    );
  }
}

async function orUnreachable<T>(address: string | undefined, connect: () => Promise<T>): Promise<T> {
  try {
    return await connect();
  } catch (error) {
    throw new BackupError(
      'TemporalUnreachable',
      `Expected a Temporal server at ${address ?? defaultAddress}, could not reach it: ${messageOf(error)}; check TEMPORAL_ADDRESS, and that the server runs`,
      { cause: error },
    );
  }
}
