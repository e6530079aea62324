import { createLocalTime, isoWeek, type LocalTime } from './local-time.js';

/** How many restore points of a VM to keep, by which rule. A rule that is not given does not apply. */
export interface RetentionPolicy {
  keepLast?: number | undefined;
  keepHourly?: number | undefined;
  keepDaily?: number | undefined;
  keepWeekly?: number | undefined;
  keepMonthly?: number | undefined;
  keepYearly?: number | undefined;
  /** IANA name: where an hour, a day, a week begins. */
  timeZone: string;
}

export type KeepField = Exclude<keyof RetentionPolicy, 'timeZone'>;

interface Rule {
  name: string;
  /** What a point is the newest of. Null: of nothing, each point is counted by itself. */
  period: ((time: LocalTime) => string) | null;
}

const two = (value: number) => String(value).padStart(2, '0');
const month = ({ year, month }: LocalTime) => `${year}-${two(month)}`;
const day = (time: LocalTime) => `${month(time)}-${two(time.day)}`;

/** In the order in which they are asked. */
export const keepRules: Record<KeepField, Rule> = {
  keepLast: { name: 'keep-last', period: null },
  keepHourly: { name: 'keep-hourly', period: (time) => `${day(time)} ${two(time.hour)}:00` },
  keepDaily: { name: 'keep-daily', period: day },
  keepWeekly: { name: 'keep-weekly', period: isoWeek },
  keepMonthly: { name: 'keep-monthly', period: month },
  keepYearly: { name: 'keep-yearly', period: ({ year }) => String(year) },
};

export const keepFields = Object.keys(keepRules) as KeepField[];

/** What retention asks of a restore point. */
export interface RetentionPoint {
  id: string;
  time: Date;
  isDamaged: boolean;
  /** Why it may not go, in words; null where nothing protects it. */
  protection: string | null;
  /** The points whose files its own files point to. */
  needs: readonly string[];
}

export interface RetentionDecision {
  id: string;
  time: Date;
  keep: boolean;
  /** The rule that decided: `keep-daily` and the like, `protected`, `damaged`, or `none` where no rule keeps the point. */
  rule: string;
  /** Why, in words. */
  reason: string;
}

type Decisions = Map<string, Omit<RetentionDecision, 'id' | 'time'>>;

/**
 * Decides which restore points stay, newest first. Of two at one time, the one given later is the newer.
 *
 * The rules and their order are those of `proxmox-backup-client prune`: each goes through the points from the newest on and
 * keeps the newest of every period, until it has kept its count. A period that holds a point which an earlier rule keeps does
 * not count, nor does one without points. What a rule passes over as an older point of a period that it keeps is gone for the
 * later rules. The hour that comes twice when summer time ends is one hour.
 *
 * Protected points stay beside what the rules keep. A damaged point is never what a rule keeps, so that good ones take its
 * place; it goes once a newer good point stays, and nothing that stays needs it. What a damaged point needs stays with it.
 */
export function decideRetention(points: readonly RetentionPoint[], policy: RetentionPolicy): RetentionDecision[] {
  const newestFirst = [...points].reverse().sort((a, b) => b.time.getTime() - a.time.getTime());
  const decisions: Decisions = new Map();
  for (const { id, protection } of newestFirst) {
    if (protection !== null) decisions.set(id, { keep: true, rule: 'protected', reason: protection });
  }
  const candidates = newestFirst.filter(({ isDamaged, protection }) => !isDamaged && protection === null);
  const localTime = createLocalTime(policy.timeZone);
  for (const field of keepFields) {
    const count = policy[field];
    if (count !== undefined) applyRule(keepRules[field], count, candidates, decisions, localTime);
  }
  for (const { id } of candidates) {
    if (!decisions.has(id)) decisions.set(id, { keep: false, rule: 'none', reason: 'no rule keeps it' });
  }
  decideDamaged(newestFirst, decisions);
  return newestFirst.flatMap(({ id, time }) => {
    const decision = decisions.get(id);
    return decision ? [{ id, time, ...decision }] : [];
  });
}

function applyRule(
  { name, period }: Rule,
  count: number,
  newestFirst: readonly RetentionPoint[],
  decisions: Decisions,
  localTime: (time: Date) => LocalTime,
): void {
  const periodOf = ({ id, time }: RetentionPoint) => (period === null ? id : period(localTime(time)));
  const covered = new Set(newestFirst.filter(({ id }) => decisions.get(id)?.keep).map(periodOf));
  const kept = new Set<string>();
  for (const point of newestFirst) {
    const found = periodOf(point);
    if (decisions.has(point.id) || covered.has(found)) continue;
    if (kept.has(found)) {
      decisions.set(point.id, { keep: false, rule: name, reason: `a newer point of ${found} stays` });
      continue;
    }
    if (kept.size >= count) return;
    kept.add(found);
    const what = period === null ? '' : `the newest of ${found}, `;
    decisions.set(point.id, { keep: true, rule: name, reason: `${what}${kept.size} of ${count}` });
  }
}

/** Damaged points are looked at last: what stays may need them. What they need stays too, since it cannot be merged into them. */
function decideDamaged(newestFirst: readonly RetentionPoint[], decisions: Decisions): void {
  const rule = 'damaged';
  const needed = neededBy(newestFirst, ({ id }) => decisions.get(id)?.keep === true);
  let hasNewerGood = false;
  for (const { id, isDamaged, protection } of newestFirst) {
    if (!isDamaged) hasNewerGood ||= decisions.get(id)?.keep === true;
    if (!isDamaged || protection !== null) continue;
    if (!hasNewerGood) decisions.set(id, { keep: true, rule, reason: 'damaged, but no newer good point stays' });
    else if (needed.has(id))
      decisions.set(id, { keep: true, rule, reason: 'damaged, but a point that stays needs it' });
    else decisions.set(id, { keep: false, rule, reason: 'damaged, and a newer good point stays' });
  }
  for (const id of neededBy(newestFirst, ({ id, isDamaged }) => isDamaged && decisions.get(id)?.keep === true)) {
    if (decisions.get(id)?.keep === false)
      decisions.set(id, { keep: true, rule, reason: 'a damaged point that stays needs it' });
  }
}

/** All points that those which `stays` picks need, directly or through others. */
function neededBy(points: readonly RetentionPoint[], stays: (point: RetentionPoint) => boolean): Set<string> {
  const needsOf = new Map(points.map(({ id, needs }) => [id, needs]));
  const needed = new Set<string>();
  const open = points.filter(stays).flatMap(({ needs }) => needs);
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    if (needed.has(id)) continue;
    needed.add(id);
    open.push(...(needsOf.get(id) ?? []));
  }
  return needed;
}
