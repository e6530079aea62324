import { hostname, userInfo } from 'node:os';
import { giveUpNamespace, lookUpLostNamespace, type LostNamespace } from '../db/installations.js';
import { BackupError } from '../domain/errors.js';
import type { Namespace } from '../domain/namespace.js';
import { describeNamespace } from '../temporal-namespace.js';
import { withDatabase, withTemporal } from './connect.js';
import { print, type CommonOptions, type Terminal } from './terminal.js';

/**
 * Gives up a Temporal namespace that is gone for good: the database belongs to the one that answers now, and the next worker of
 * each host cleans up after the runs of the lost one. Needs no worker, since none starts before.
 * @throws BackupError InvalidInput without --yes, or when the id is not one to give up; WrongNamespace
 */
export async function loseNamespace(
  terminal: Terminal,
  lostId: string,
  options: CommonOptions & { yes?: true },
): Promise<void> {
  const { lost, answering } = await withDatabase(terminal, (db) =>
    withTemporal(async ({ connection, namespace, address }) => {
      const answering = await describeNamespace(connection, { name: namespace, address });
      if (!options.yes) throw refusal(lostId, await lookUpLostNamespace(db, lostId, answering), answering);
      const lost = await giveUpNamespace(db, { lostId, givenUpBy: givenUpBy() }, answering);
      return { lost, answering };
    }),
  );
  print(terminal, options, {
    document: { lostNamespaceId: lostId, namespace: answering.name, namespaceId: answering.id, ...lost },
    text: [
      `Gave up Temporal namespace ${lostId}; this database belongs to '${answering.name}' (id ${answering.id})`,
      `${describeRows(lost)} will be cleaned up by the workers of their hosts: start each with 'backupvm worker'`,
    ].join('\n'),
  });
}

/** Who gives up a namespace, for the record. */
export function givenUpBy(): string {
  return `${userInfo().username}@${hostname()}`;
}

/** A live namespace would lose its backups, so it has to be said in so many words. */
function refusal(lostId: string, lost: LostNamespace, answering: Namespace): BackupError {
  return new BackupError(
    'InvalidInput',
    `nothing was given up: this would end ${describeRows(lost)} of Temporal namespace ${lostId}, also if they still run, ` +
      `and tie this database to '${answering.name}' (id ${answering.id}) at ${answering.address}; ` +
      `make sure that no worker of the lost namespace runs, then repeat with --yes`,
  );
}

function describeRows({ jobs, leases }: LostNamespace): string {
  return `${jobs} backup(s) and ${leases} other operation(s)`;
}
