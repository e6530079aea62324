import type { Connection } from '@temporalio/client';
import { BackupError } from './domain/errors.js';
import { messageOf } from './domain/message-of.js';
import { wrongNamespace, type Namespace } from './domain/namespace.js';
import { claimInstallation, findInstallation } from './db/installations.js';
import type { Queryable } from './db/database.js';

/** A client's connection or a worker's. */
export type NamespaceService = { workflowService: Pick<Connection['workflowService'], 'describeNamespace'> };

/** Where a connection leads, by its settings. */
export interface NamespaceAddress {
  name: string;
  address: string;
}

/** Asks the server for a namespace, and for its id. @throws BackupError NamespaceNotFound, TemporalUnreachable */
export async function describeNamespace(
  { workflowService }: NamespaceService,
  { name, address }: NamespaceAddress,
): Promise<Namespace> {
  try {
    const { namespaceInfo } = await workflowService.describeNamespace({ namespace: name });
    if (!namespaceInfo?.id) throw new TypeError('Expected the id of the namespace, found none in the answer');
    return { id: namespaceInfo.id, name, address };
  } catch (error) {
    if (isGrpcNotFound(error)) {
      throw new BackupError(
        'NamespaceNotFound',
        `cannot use Temporal namespace '${name}': the server at ${address} does not know it; ` +
          `check TEMPORAL_NAMESPACE, TEMPORAL_ADDRESS and TEMPORAL_PROFILE, or create it with 'temporal operator namespace create'`,
        { cause: error },
      );
    }
    throw new BackupError(
      'TemporalUnreachable',
      `cannot look up Temporal namespace '${name}' at ${address}: ${messageOf(error)}; check that the server runs and lets us describe the namespace`,
      { cause: error },
    );
  }
}

/**
 * Ties the database to the namespace that answers, at the first time; later makes sure that it is the same one. Before that
 * nothing may be cleaned up: another namespace knows none of our runs, and would have every one of them taken for ended.
 * @throws BackupError NamespaceNotFound, WrongNamespace, TemporalUnreachable
 */
export async function openInstallation(
  db: Queryable,
  service: NamespaceService,
  settings: NamespaceAddress,
): Promise<Namespace> {
  const namespace = await describeNamespace(service, settings);
  await claimInstallation(db, namespace);
  return namespace;
}

/**
 * Looks whether the server behind the connection still has the namespace that this database belongs to: either may have been
 * replaced while we run. @throws BackupError NamespaceNotFound, WrongNamespace, TemporalUnreachable
 */
export async function requireSameNamespace(
  db: Queryable,
  service: NamespaceService,
  namespace: Namespace,
): Promise<void> {
  const [found, recorded] = [await describeNamespace(service, namespace), await findInstallation(db)];
  if (recorded?.namespaceId === namespace.id && found.id === namespace.id) return;
  if (!recorded) throw new TypeError('Expected the namespace of this database, found none recorded');
  throw wrongNamespace(recorded, found);
}

export function isGrpcNotFound(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 5;
}
