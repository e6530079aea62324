import { Client, Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection } from '@temporalio/worker';
import { BackupError } from '../domain/errors.js';

// The connection's settings come from TEMPORAL_* and the profile file, exactly as for the `temporal` CLI.

/** A client for commands. @throws BackupError TemporalUnreachable */
export async function connectClient(): Promise<{ client: Client; namespace: string; close(): Promise<void> }> {
  const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
  const connection = await orUnreachable(connectionOptions.address, () =>
    Connection.connect({ ...connectionOptions, connectTimeout: '10s' }),
  );
  const client = new Client({ connection, namespace });
  return { client, namespace, close: () => connection.close() };
}

/** A connection for workers. @throws BackupError TemporalUnreachable */
export async function connectWorker(): Promise<{ connection: NativeConnection; namespace: string }> {
  const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
  return {
    connection: await orUnreachable(connectionOptions.address, () => NativeConnection.connect(connectionOptions)),
    namespace,
  };
}

async function orUnreachable<T>(address: string | undefined, connect: () => Promise<T>): Promise<T> {
  try {
    return await connect();
  } catch (error) {
    throw new BackupError(
      'TemporalUnreachable',
      `Expected a Temporal server at ${address ?? 'localhost:7233'}, could not reach it: ${error instanceof Error ? error.message : String(error)}; check TEMPORAL_ADDRESS, and that the server runs`,
      { cause: error },
    );
  }
}
