import { setTimeout as delay } from 'node:timers/promises';
import { Client } from '@temporalio/client';
import type { NativeConnection } from '@temporalio/worker';
import type { Logger } from 'pino';
import type { Config } from './config/config.js';
import type { Database } from './db/database.js';
import { BackupError, type ErrorCode } from './domain/errors.js';
import { messageOf } from './domain/message-of.js';
import type { Namespace } from './domain/namespace.js';
import { ensureReconcileSchedule } from './reconcile-schedule.js';
import { requireSameNamespace } from './temporal-namespace.js';

/** What a worker looks after while it runs. */
export interface Watched {
  db: Database;
  connection: NativeConnection;
  namespace: Namespace;
  /** Whose reconcile schedule has to exist; undefined where this process serves no host. */
  host: string | undefined;
}

/** The server or the database was replaced by another one: no step that this worker takes is ours any more. */
const fatal: readonly ErrorCode[] = ['WrongNamespace', 'NamespaceNotFound'];

/**
 * At the worker's start and once in a while until the signal is aborted: makes sure that the server and the database still
 * belong together, and that the host's reconcile schedule exists, since setup may have run before the host was added, and the
 * server may have lost its data. A failure for now is only logged.
 * @throws BackupError WrongNamespace, NamespaceNotFound: the worker has to stop
 */
export async function watchInstallation(
  watched: Watched,
  { reconcileIntervalMs }: Pick<Config, 'reconcileIntervalMs'>,
  { log, signal }: { log: Logger; signal: AbortSignal },
): Promise<void> {
  while (!signal.aborted) {
    try {
      await look(watched, reconcileIntervalMs);
    } catch (error) {
      if (error instanceof BackupError && fatal.includes(error.code)) {
        log.error({ error: error.message }, 'the worker stops: it no longer works for this database');
        throw error;
      }
      log.warn({ error: messageOf(error) }, 'could not look after the reconcile schedule; will try again');
    }
    await delay(reconcileIntervalMs, undefined, { signal }).catch(() => undefined); // aborted: the loop ends
  }
}

async function look({ db, connection, namespace, host }: Watched, intervalMs: number): Promise<void> {
  await requireSameNamespace(db, connection, namespace);
  if (host === undefined) return;
  await ensureReconcileSchedule(new Client({ connection, namespace: namespace.name }), { host, intervalMs });
}
