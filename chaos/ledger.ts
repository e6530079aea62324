import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { restore } from '../test/support/content.js';
import type { Lab } from '../test/support/lab.js';
import type { Guest } from './guest.js';

/** What is known of the restore points of one guest: each was found in the guest's history, whole, when it was sealed. */
export interface Ledger {
  sealed: () => number;
  /** Those that are there, oldest first. */
  pointIds: () => Promise<string[]>;
  /** Somebody is about to delete a point: it may go, now or later. */
  mayGo: (jobId: string) => void;
  /** The checksums of what a point's disks hold; undefined while it has not been looked at. */
  witnessOf: (jobId: string) => string[] | undefined;
  /** Looks at the points that were sealed since the last time. @returns what is wrong with them */
  inspectNew: () => Promise<string[]>;
  /** Looks whether all points still hold what they held when they were sealed. @returns what is wrong with them */
  inspectAll: () => Promise<string[]>;
}

interface Point {
  jobId: string;
  files: string[];
  types: string;
  startedAt: Date;
}

export function startLedger(lab: Lab, guest: Guest): Ledger {
  const witnesses = new Map<string, string[]>();
  const mayBeGone = new Set<string>();

  async function points(): Promise<Point[]> {
    interface Row {
      jobId: string;
      startedAt: Date;
      key: string;
      path: string;
      type: string;
    }
    const { rows } = await lab.database.pool.query<Row>(
      `select j.id as "jobId", j.started_at as "startedAt", d.disk_key as key, d.path, d.type || ' (' || d.reason || ')' as type
       from backup_jobs j join backup_disks d on d.job_id = j.id join vm_backup_contexts c on c.id = j.context_id
       where c.vm_name = $1 and j.status = 'complete' order by j.point_time`,
      [guest.name],
    );
    return [...new Set(rows.map(({ jobId }) => jobId))].map((jobId) => {
      const disks = rows.filter((row) => row.jobId === jobId);
      const files = guest.keys.map((key) => disks.find((disk) => disk.key === key)?.path ?? `no file of ${key}`);
      const types = [...new Set(disks.map(({ type }) => type))].join(', ');
      return { jobId, files, types, startedAt: disks[0]?.startedAt ?? new Date() };
    });
  }

  /** Restores the point as a stranger would. */
  async function withRestored<T>({ jobId, files }: Point, look: (restored: string[]) => Promise<T>): Promise<T> {
    const restored = files.map((_, index) => join(lab.directory, `${guest.name}-${jobId}-${index}.raw`));
    try {
      for (const [index, file] of files.entries()) {
        await restore(join(lab.repository.path, file), restored[index] ?? '');
      }
      return await look(restored);
    } finally {
      await Promise.all(restored.map((file) => rm(file, { force: true })));
    }
  }

  return {
    sealed: () => witnesses.size,
    pointIds: async () => (await points()).map(({ jobId }) => jobId),
    mayGo: (jobId) => void mayBeGone.add(jobId),
    witnessOf: (jobId) => witnesses.get(jobId),
    async inspectNew() {
      const problems: string[] = [];
      const all = await points();
      for (const point of all.filter(({ jobId }) => !witnesses.has(jobId))) {
        const upTo = guest.history.length();
        const found = await withRestored(point, async (restored) => {
          witnesses.set(point.jobId, await checksums(restored));
          return guest.history.find(restored, upTo);
        });
        if (found === undefined) problems.push(`${guest.name}: point ${point.jobId} is of no moment of the guest`);
        const before = all[all.indexOf(point) - 1];
        const isFull = point.types.includes('full') && !point.types.includes('merged'); // by a prune, meanwhile
        // A crash loses the bitmaps also of a point whose backup had only begun.
        if (isFull && before && guest.lastCrash() < before.startedAt.getTime()) {
          problems.push(
            `${guest.name}: point ${point.jobId}, begun ${point.startedAt.toISOString()}, is a ${point.types}, though the one before began ${before.startedAt.toISOString()} and the VM crashed last ${new Date(guest.lastCrash()).toISOString()}`,
          );
        }
      }
      return problems;
    },
    async inspectAll() {
      const all = await points();
      const problems = [...witnesses.keys()]
        .filter((jobId) => !mayBeGone.has(jobId) && !all.some((point) => point.jobId === jobId))
        .map((jobId) => `${guest.name}: point ${jobId} is gone`);
      for (const point of all) {
        const now = await withRestored(point, checksums).catch((error: unknown) => [String(error)]);
        if (now.join() !== witnesses.get(point.jobId)?.join()) {
          problems.push(`${guest.name}: point ${point.jobId} has changed since it was sealed: ${now.join()}`);
        }
      }
      return problems;
    },
  };
}

export async function checksums(files: readonly string[]): Promise<string[]> {
  return Promise.all(
    files.map(async (file) =>
      createHash('sha256')
        .update(await readFile(file))
        .digest('hex'),
    ),
  );
}
