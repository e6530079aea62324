import { eq } from 'drizzle-orm';
import { BackupError } from '../domain/errors.js';
import { type Database, type Queryable, violatesUnique } from './database.js';
import { hypervisors, vmBackupContexts } from './schema.js';

export type Hypervisor = typeof hypervisors.$inferSelect;
export type HypervisorKind = Hypervisor['kind'];

/** @throws BackupError AlreadyExists when the name, or the URI on this host, is taken */
export async function addHypervisor(
  db: Database,
  values: { name: string; kind: HypervisorKind; uri: string; host: string },
): Promise<Hypervisor> {
  try {
    const [row] = await db.insert(hypervisors).values(values).returning();
    if (!row) throw new TypeError('Expected the inserted hypervisor, found no row');
    return row;
  } catch (error) {
    if (violatesUnique(error, 'hypervisors_name_unique')) {
      throw new BackupError(
        'AlreadyExists',
        `A hypervisor named '${values.name}' is registered already; choose another name`,
      );
    }
    if (violatesUnique(error, 'hypervisors_host_uri')) {
      throw new BackupError(
        'AlreadyExists',
        `${values.uri} on host '${values.host}' is registered already; see 'backupvm hypervisor list'`,
      );
    }
    throw error;
  }
}

export async function listHypervisors(db: Queryable): Promise<Hypervisor[]> {
  return db.select().from(hypervisors).orderBy(hypervisors.name);
}

/** @throws BackupError HypervisorNotFound; InUse when backups of its VMs are recorded */
export async function removeHypervisor(db: Database, name: string): Promise<void> {
  await db.transaction(async (tx) => {
    const [row] = await tx.select().from(hypervisors).where(eq(hypervisors.name, name)).for('update');
    if (!row) throw await notFound(tx, name);
    const contexts = await tx.$count(vmBackupContexts, eq(vmBackupContexts.hypervisorId, row.id));
    if (contexts > 0) {
      throw new BackupError(
        'InUse',
        `Hypervisor '${name}' has backups of ${contexts} VM(s) recorded; it stays registered while they are kept`,
      );
    }
    await tx.delete(hypervisors).where(eq(hypervisors.id, row.id));
  });
}

/**
 * The hypervisor of that name; without a name, the only one.
 * @throws BackupError HypervisorNotFound, which lists those there are
 */
export async function chooseHypervisor(db: Queryable, name: string | undefined): Promise<Hypervisor> {
  const all = await listHypervisors(db);
  const chosen = name === undefined && all.length === 1 ? all[0] : all.find((row) => row.name === name);
  if (!chosen) throw await notFound(db, name);
  return chosen;
}

/** @throws BackupError HypervisorNotFound */
export async function getHypervisor(db: Queryable, id: string): Promise<Hypervisor> {
  const [row] = await db.select().from(hypervisors).where(eq(hypervisors.id, id));
  if (!row) throw new BackupError('HypervisorNotFound', `Expected hypervisor ${id}, found no such row`);
  return row;
}

async function notFound(db: Queryable, name: string | undefined): Promise<BackupError> {
  const names = (await listHypervisors(db)).map((row) => `'${row.name}'`);
  if (names.length === 0) {
    return new BackupError('HypervisorNotFound', `No hypervisor is registered; add one with 'backupvm hypervisor add'`);
  }
  return new BackupError(
    'HypervisorNotFound',
    name === undefined
      ? `${names.length} hypervisors are registered (${names.join(', ')}); say which in the field 'hypervisor'`
      : `Expected a registered hypervisor, found no '${name}'; registered: ${names.join(', ')}`,
  );
}
