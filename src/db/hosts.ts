import { eq, sql } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import type { Database, Queryable } from './database.js';
import { hosts, nbdExports } from './schema.js';

/** A host's name, and the machine that is meant by it. */
export interface HostClaim {
  host: string;
  machineId: string;
}

/** What a machine left that a host was taken over from. */
export interface TakenOver {
  machineId: string;
  claimedAt: Date;
  /** Ports that are still leased: its processes are taken for dead from now on, and reconcile gives them back. */
  leasedPorts: number;
}

/**
 * Claims a host name for a machine, before anything is done in that name: on another machine a process of the host looks dead,
 * and its port would be given away while qemu-nbd still writes. Safe to repeat; of two machines at once, one wins.
 * @returns what was taken over, or undefined when the host was free or this machine's already
 * @throws BackupError WrongHost when it is another machine's, unless `takeOver` says that one is gone for good
 */
export async function claimHost(
  db: Database,
  claim: HostClaim,
  { takeOver = false }: { takeOver?: boolean } = {},
): Promise<TakenOver | undefined> {
  return db.transaction(async (tx) => {
    await tx.insert(hosts).values({ name: claim.host, machineId: claim.machineId }).onConflictDoNothing();
    const [owner] = await tx.select().from(hosts).where(eq(hosts.name, claim.host)).for('update');
    if (!owner) throw new TypeError(`Expected the claim of host '${claim.host}', found no row`);
    if (owner.machineId === claim.machineId) return undefined;
    if (!takeOver) throw wrongMachine(claim, owner);
    await tx
      .update(hosts)
      .set({ machineId: claim.machineId, claimedAt: sql`now()` })
      .where(eq(hosts.name, claim.host));
    const leasedPorts = await tx.$count(nbdExports, eq(nbdExports.host, claim.host));
    return { machineId: owner.machineId, claimedAt: owner.claimedAt, leasedPorts };
  });
}

/** Whether a host has been claimed by another machine. */
export async function isClaimedElsewhere(db: Queryable, claim: HostClaim): Promise<boolean> {
  const owner = await findOwner(db, claim);
  return owner !== undefined && owner.machineId !== claim.machineId;
}

/** @throws BackupError WrongHost when the host has become, or always was, another machine's. A host that nobody claimed is anybody's. */
export async function requireClaim(db: Queryable, claim: HostClaim): Promise<void> {
  const owner = await findOwner(db, claim);
  if (owner && owner.machineId !== claim.machineId) throw wrongMachine(claim, owner);
}

async function findOwner(db: Queryable, { host }: HostClaim): Promise<typeof hosts.$inferSelect | undefined> {
  const [owner] = await db.select().from(hosts).where(eq(hosts.name, host));
  return owner;
}

function wrongMachine({ host, machineId }: HostClaim, owner: typeof hosts.$inferSelect): BackupError {
  return new BackupError(
    'WrongHost',
    `Expected host '${host}' to be this machine, ${machineId}, found that it is machine ${owner.machineId} since ${owner.claimedAt.toISOString()}; ` +
      `set BACKUPVM_HOST to another name here, or, if that machine is gone for good, run 'backupvm worker --take-over'`,
    { details: { host, machineId, claimedBy: owner.machineId } },
  );
}
