import { BackupError } from './errors.js';

/** What is known of a restore point that may protect others, or be protected by them. */
export interface PointProtection {
  id: string;
  /** Why it must stay; null where nobody holds it. */
  hold: string | null;
  immutableUntil: Date | null;
  /** The restore points that its files build upon. */
  parentIds: readonly string[];
}

/** What may protect the restore points of one VM in one repository. */
export interface ProtectionFacts {
  repository: { name: string; immutableUntil: Date | null };
  points: readonly PointProtection[];
}

/**
 * Why a restore point must neither be deleted nor merged at this moment, in words, or null. A hold, and immutability, protect a
 * point and all that it needs.
 */
export function findProtection({ repository, points }: ProtectionFacts, id: string, now: Date): string | null {
  if (isFuture(repository.immutableUntil, now)) {
    return `repository '${repository.name}' is immutable until ${repository.immutableUntil.toISOString()}`;
  }
  for (const point of withDescendants(points, id)) {
    const who = point.id === id ? 'it' : `restore point ${point.id}, which needs it,`;
    if (point.hold !== null) return `${who} is held: ${point.hold}`;
    if (isFuture(point.immutableUntil, now)) return `${who} is immutable until ${point.immutableUntil.toISOString()}`;
  }
  return null;
}

/** @throws BackupError Protected, which names for each of the points what protects it */
export function requireUnprotected(facts: ProtectionFacts, ids: readonly string[], now: Date): void {
  const problems = ids.flatMap((id) => {
    const protection = findProtection(facts, id, now);
    return protection === null ? [] : [`restore point ${id}: ${protection}`];
  });
  if (problems.length === 0) return;
  throw new BackupError(
    'Protected',
    `Expected restore points that may be deleted, found protected ones: ${problems.join('; ')}; nothing was deleted`,
    { details: { protectedPoints: problems.length } },
  );
}

/**
 * Checks a new end of immutability, which may be put off and never brought forward.
 * @throws BackupError Protected; InvalidInput when it is not in the future
 */
export function requireLaterEnd(what: string, current: Date | null, until: Date, now: Date): void {
  if (until <= now) {
    throw new BackupError(
      'InvalidInput',
      `Expected a time in the future until which ${what} is immutable, found ${until.toISOString()}`,
    );
  }
  if (isFuture(current, now) && until < current) {
    throw new BackupError(
      'Protected',
      `Expected a time at or after ${current.toISOString()}, until which ${what} is immutable already, found ${until.toISOString()}; it cannot be shortened`,
    );
  }
}

function isFuture(time: Date | null, now: Date): time is Date {
  return time !== null && time > now;
}

/** A point and all points that need it, directly or not. */
function withDescendants(points: readonly PointProtection[], id: string): PointProtection[] {
  const children = new Map<string, string[]>(); // retention asks for each of thousands of points
  for (const { id: child, parentIds } of points) {
    for (const parent of parentIds) children.set(parent, [...(children.get(parent) ?? []), child]);
  }
  const found = new Set<string>([id]);
  for (const current of found) for (const child of children.get(current) ?? []) found.add(child);
  return points.filter((point) => found.has(point.id));
}
