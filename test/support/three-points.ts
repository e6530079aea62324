import { join } from 'node:path';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, expect } from 'vitest';
import { beginDeletion, finishDeletion, type DeletionEnd } from '../../src/activities/deletions.js';
import { releaseChainLease } from '../../src/db/chain-leases.js';
import { listDisks, type BackupDisk } from '../../src/db/disks.js';
import { getJob } from '../../src/db/jobs.js';
import type { Descendants } from '../../src/domain/deletion.js';
import { manifestPath } from '../../src/domain/names.js';
import { createChains, readDisk, type Chains } from './chains.js';
import { createTestDatabase, type TestDatabase } from './database.js';

const KiB = 1024;
const signal = new AbortController().signal;

/** A full and two incrementals of one disk, made anew for each test, and what deletes them. */
export interface ThreePoints {
  database: TestDatabase;
  chains: Chains;
  jobIds: [string, string, string];
  statusOf: (jobId: string) => Promise<string>;
  diskOf: (jobId: string) => Promise<BackupDisk>;
  fileOf: (jobId: string) => Promise<string>;
  /** What the disk reads, and must read. */
  readsRight: (jobId: string) => Promise<boolean>;
  /** Up to the tombstones. A refusal gives the lease back. @returns the lease */
  begin: (jobIds: readonly string[] | null, descendants?: Descendants) => Promise<string>;
  finish: (leaseId: string) => Promise<DeletionEnd>;
  expectUntouched: () => Promise<void>;
}

export function useThreePoints(purpose: string): ThreePoints {
  const points: ThreePoints = {
    database: undefined as unknown as TestDatabase,
    chains: undefined as unknown as Chains,
    jobIds: ['', '', ''],
    statusOf: async (jobId) => (await getJob(points.database.db, jobId)).status,
    async diskOf(jobId) {
      const [disk] = await listDisks(points.database.db, jobId);
      if (!disk) throw new Error(`no disk of ${jobId}`);
      return disk;
    },
    fileOf: async (jobId) => join(points.chains.root, (await points.diskOf(jobId)).path),
    async readsRight(jobId) {
      const content = points.chains.expected.get(jobId)?.get('root');
      return content !== undefined && (await readDisk(await points.fileOf(jobId))).equals(content);
    },
    async begin(jobIds, descendants = 'refuse') {
      const leaseId = await points.chains.takeLease();
      const input = { leaseId, jobIds: jobIds && [...jobIds], descendants };
      try {
        await beginDeletion(points.chains.dependencies, input, signal);
      } catch (error) {
        await releaseChainLease(points.database.db, leaseId);
        throw error;
      }
      return leaseId;
    },
    finish: (leaseId) => finishDeletion(points.chains.dependencies, leaseId, signal),
    async expectUntouched() {
      for (const jobId of points.jobIds) {
        expect(await points.statusOf(jobId)).toBe('complete');
        expect(await points.readsRight(jobId)).toBe(true);
        const { pointTime } = await getJob(points.database.db, jobId);
        await readFile(join(points.chains.root, manifestPath(points.chains.context.directory, pointTime)));
      }
    },
  };
  beforeAll(async () => {
    points.database = await createTestDatabase(purpose);
  });
  afterAll(() => points.database.drop());
  beforeEach(async () => {
    const chains = await createChains(points.database.db);
    const write = (offset: number, pattern: number) => ({ kind: 'write', offset, length: 64 * KiB, pattern }) as const;
    points.chains = chains;
    points.jobIds = [
      await chains.addPoint({ root: [{ kind: 'grow', sizeBytes: 512 * KiB }, write(0, 1)] }),
      await chains.addPoint({ root: [write(64 * KiB, 2)] }),
      await chains.addPoint({ root: [write(128 * KiB, 3)] }),
    ];
    return () => chains.close();
  });
  return points;
}
