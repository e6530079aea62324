import { and, eq, inArray, isNull, sql } from 'drizzle-orm';
import type { Database, Queryable } from './database.js';
import { backupDisks } from './schema.js';

/** What is recorded of a disk that needs a damaged file. */
export function needsDamaged(path: string): string {
  return `needs the damaged ${path}`;
}

/**
 * Records damage: of a disk alone, or, when it is its file that is damaged, also of all that need it. What is known of those
 * already stays. Safe to repeat.
 */
export async function markDamaged(
  db: Database,
  { id, path }: { id: string; path: string },
  { damage, spreads }: { damage: string; spreads: boolean },
): Promise<void> {
  await db.transaction(async (tx) => {
    await tx.update(backupDisks).set({ damage }).where(eq(backupDisks.id, id));
    if (!spreads) return;
    const descendants = sql`(
      with recursive descendant(id) as (
        select child.id from ${backupDisks} as child where child.parent_id = ${id}
        union all
        select child.id from ${backupDisks} as child join descendant on child.parent_id = descendant.id
      )
      select id from descendant
    )`;
    await tx
      .update(backupDisks)
      .set({ damage: needsDamaged(path) })
      .where(and(sql`${backupDisks.id} in ${descendants}`, isNull(backupDisks.damage)));
  });
}

/** Records that nothing is wrong with these disks any more. Safe to repeat. */
export async function liftDamage(db: Queryable, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await db
    .update(backupDisks)
    .set({ damage: null })
    .where(inArray(backupDisks.id, [...ids]));
}

/** What was found of a parent while a job was copying upon it is damage of the job's disks, too. Safe to repeat. */
export async function inheritDamage(tx: Queryable, jobId: string): Promise<void> {
  await tx.execute(sql`
    update ${backupDisks} as disk set damage = 'needs the damaged ' || parent.path
    from ${backupDisks} as parent
    where disk.job_id = ${jobId} and parent.id = disk.parent_id and parent.damage is not null and disk.damage is null`);
}
