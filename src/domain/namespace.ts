import { BackupError } from './errors.js';

/** A Temporal namespace that answered. */
export interface Namespace {
  /** The server's own id of it: another server, or a namespace that was created again, has another id. */
  id: string;
  name: string;
  /** Of the server, for messages. */
  address: string;
}

/** The namespace that the runs of this database belong to. */
export interface RecordedNamespace {
  namespaceId: string;
  namespace: string;
  recordedAt: Date;
}

/** Says which namespace the database belongs to, which one answered, and what to do. */
export function wrongNamespace(recorded: RecordedNamespace, found: Namespace): BackupError {
  const { namespaceId, namespace, recordedAt } = recorded;
  return new BackupError(
    'WrongNamespace',
    `this database belongs to Temporal namespace '${namespace}' (id ${namespaceId}, recorded ${recordedAt.toISOString()}), ` +
      `but namespace '${found.name}' (id ${found.id}) answered at ${found.address}; ` +
      `check TEMPORAL_NAMESPACE, TEMPORAL_ADDRESS and TEMPORAL_PROFILE, or, if namespace ${namespaceId} is gone for good, ` +
      `run 'backupvm reconcile --lost-namespace ${namespaceId}'`,
    { details: { recordedId: namespaceId, foundId: found.id } },
  );
}
