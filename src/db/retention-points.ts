import { and, eq, isNotNull } from 'drizzle-orm';
import { findProtection } from '../domain/protection.js';
import type { RetentionPoint } from '../domain/retention.js';
import type { Queryable } from './database.js';
import { listPoints } from './points.js';
import { protectionFacts } from './protection.js';
import { backupDisks } from './schema.js';

/** The restore points of a context as retention sees them, oldest first. */
export async function listRetentionPoints(db: Queryable, contextId: string, now: Date): Promise<RetentionPoint[]> {
  const facts = await protectionFacts(db, contextId);
  const needs = new Map(facts.points.map(({ id, parentIds }) => [id, parentIds]));
  const damaged = await db
    .selectDistinct({ jobId: backupDisks.jobId })
    .from(backupDisks)
    .where(and(eq(backupDisks.contextId, contextId), isNotNull(backupDisks.damage)));
  const points = await listPoints(db, contextId);
  return points.map(({ id, pointTime }) => ({
    ...{ id, time: pointTime, needs: needs.get(id) ?? [], protection: findProtection(facts, id, now) },
    isDamaged: damaged.some(({ jobId }) => jobId === id),
  }));
}
