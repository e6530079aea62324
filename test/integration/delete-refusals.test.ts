import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFile,
  mkdir,
  mkdtemp,
  readFile,
  rename,
  rm,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { beginDeletion, finishDeletion } from '../../src/activities/deletions.js';
import type { MergeProgress } from '../../src/activities/merge.js';
import { findChainLease } from '../../src/db/chain-leases.js';
import { listHeads } from '../../src/db/contexts.js';
import { planDisks } from '../../src/db/disks.js';
import { closeJob } from '../../src/db/jobs.js';
import { listPoints } from '../../src/db/points.js';
import { createChains, readDisk } from '../support/chains.js';
import { filesBelow } from '../support/end-state.js';
import { startJob } from '../support/job.js';
import { makeSmallFileSystem } from '../support/small-file-system.js';
import { useThreePoints } from '../support/three-points.js';

const KiB = 1024;
const signal = new AbortController().signal;
const points = useThreePoints('delete-refusals');

describe('what others need', () => {
  test('is not deleted by default, and they are named', async () => {
    const [full, second] = points.jobIds;
    await expect(points.begin([full])).rejects.toMatchObject({
      code: 'HasDescendants',
      details: { pointIds: [second] },
      message: expect.stringContaining(second) as string,
    });
    await points.expectUntouched();
  });

  test('goes together with them when that is asked for, but never a part of them', async () => {
    await points.finish(await points.begin([points.jobIds[1]], 'delete'));
    expect((await listPoints(points.database.db, points.chains.context.id)).map(({ id }) => id)).toEqual([
      points.jobIds[0],
    ]);
  });

  test('that were planned by a backup which failed loses only its row', async () => {
    const { db } = points.database;
    const failed = await startJob(db, { contextId: points.chains.context.id });
    const disk = { key: 'root', target: 'root', identity: 'a', sizeBytes: 1 };
    const plan = { ...disk, reason: 'parent_good', baseChangeId: null } as const;
    const parentId = (await points.diskOf(points.jobIds[2])).id;
    await planDisks(db, failed, [{ ...plan, type: 'incremental', parentId, path: 'failed.qcow2' }]);
    await closeJob(db, failed.id, 'failed', 'a test');
    await points.finish(await points.begin([points.jobIds[2]]));
    expect(await points.diskOf(failed.id)).toMatchObject({ type: 'incremental', parentId: null });
  });
});

describe('a row that was tampered with', () => {
  const other = 'somebody/else.qcow2';
  test.each([
    ['leads out of the repository', `../outside.qcow2`],
    ['is absolute', '/outside.qcow2'],
    ['is of another context', other],
    ['is the marker file', '.backupvm-repository.json'],
    ['is empty', ''],
  ])('so that a path %s is refused, and nothing is touched', async (_what, path) => {
    await mkdir(join(points.chains.root, dirname(other)));
    await writeFile(join(points.chains.root, other), 'precious');
    await points.database.pool.query(`update backup_disks set path = $1 where job_id = $2`, [path, points.jobIds[2]]);
    const before = await filesBelow(points.chains.root);
    await expect(points.begin([points.jobIds[2]])).rejects.toMatchObject({ code: 'RepositoryUnusable' });
    expect(await points.statusOf(points.jobIds[2])).toBe('complete');
    expect(await filesBelow(points.chains.root)).toEqual(before);
  });

  test('so that the context has a folder elsewhere is refused', async () => {
    await points.database.pool.query(`update vm_backup_contexts set directory = '../x' where id = $1`, [
      points.chains.context.id,
    ]);
    await expect(points.begin([points.jobIds[2]])).rejects.toMatchObject({ code: 'RepositoryUnusable' });
  });

  test('after its tombstone is refused, said, and done when it is mended', async () => {
    const leaseId = await points.begin([points.jobIds[2]]);
    const { path } = await points.diskOf(points.jobIds[2]);
    const tamper = (to: string) =>
      points.database.pool.query(`update backup_disks set path = $1 where job_id = $2`, [to, points.jobIds[2]]);
    await tamper((await points.diskOf(points.jobIds[0])).path.replace('.qcow2', '.other'));
    await expect(points.finish(leaseId)).rejects.toMatchObject({ code: 'CleanUpFailed' });
    expect((await findChainLease(points.database.db, leaseId))?.cleanUpError).toContain('tampered with');
    await tamper(path);
    await points.finish(leaseId);
    expect(await findChainLease(points.database.db, leaseId)).toBeUndefined();
  });

  test('a folder that has become a link is not followed', async () => {
    const folder = dirname(await points.fileOf(points.jobIds[2]));
    await rename(folder, `${folder}.moved`);
    await symlink(`${folder}.moved`, folder);
    const before = await filesBelow(points.chains.root);
    await expect(points.begin([points.jobIds[2]])).rejects.toMatchObject({
      code: 'RepositoryUnusable',
      message: expect.stringContaining('is a link') as string,
    });
    expect(await filesBelow(points.chains.root)).toEqual(before);
  });
});

describe('a merge', () => {
  test.each([
    ['is missing', (file: string) => rm(file)],
    ['is cut off', (file: string) => truncate(file, 100_000)],
    ['has changed', (file: string) => appendFile(file, 'x')],
  ])('of files of which one %s is refused, and nothing is changed', async (_what, damage) => {
    for (const [index, jobId] of points.jobIds.entries()) {
      const file = await points.fileOf(jobId);
      const content = await readFile(file);
      await damage(file);
      await expect(points.begin([points.jobIds[0], points.jobIds[1]], 'merge'), `file ${index}`).rejects.toMatchObject({
        code: 'PointDamaged',
      });
      await writeFile(file, content);
    }
    await points.expectUntouched();
  });

  test('into a restore point that is marked as damaged is refused', async () => {
    await points.database.pool.query(`update backup_disks set damage = 'one block' where job_id = $1`, [
      points.jobIds[1],
    ]);
    await expect(points.begin([points.jobIds[0]], 'merge')).rejects.toMatchObject({
      code: 'PointDamaged',
      message: expect.stringContaining('one block') as string,
    });
  });

  test('from which a file vanishes is given up: what it would have deleted is back, and all of it is marked', async () => {
    await points.chains.addPoint({ root: [{ kind: 'write', offset: 0, length: 512, pattern: 9 }] });
    const leaseId = await points.begin([points.jobIds[0], points.jobIds[1]], 'merge');
    await rm(await points.fileOf(points.jobIds[1]));
    await expect(points.finish(leaseId)).rejects.toMatchObject({ code: 'PointDamaged' });
    const marked = await listPoints(points.database.db, points.chains.context.id);
    expect(marked).toHaveLength(4);
    for (const { id } of marked) expect((await points.diskOf(id)).damage).toMatch(/cannot be done: .* is missing/);
    expect(await findChainLease(points.database.db, leaseId)).toBeUndefined();
    await readFile(await points.fileOf(points.jobIds[0]));
    await readFile(await points.fileOf(points.jobIds[2]));
    await points.finish(await points.begin(null)); // and all of it can still be deleted
    expect(await filesBelow(points.chains.root)).toEqual(['.backupvm-epoch.json', '.backupvm-repository.json']);
  });

  test('waits while somebody has a file open, and says so', async () => {
    const leaseId = await points.begin([points.jobIds[0]], 'merge');
    const base = await points.fileOf(points.jobIds[0]);
    const holder = spawn('qemu-io', ['-f', 'qcow2', base], { stdio: ['pipe', 'pipe', 'inherit'] });
    try {
      await once(holder.stdout, 'data'); // its prompt: the file is open, to be written
      await expect(points.finish(leaseId)).rejects.toMatchObject({
        code: 'CleanUpFailed',
        message: expect.stringContaining('another process that holds its lock') as string,
      });
    } finally {
      holder.stdin.end();
      await once(holder, 'exit');
    }
    await points.finish(leaseId);
    expect(await points.readsRight(points.jobIds[1])).toBe(true);
  });

  test('in a repository that fills up meanwhile says so, loses nothing, and is completed when there is space', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'backupvm-full-'));
    const small = await makeSmallFileSystem(directory, 'small', 32 * 1024 * KiB);
    try {
      const chains = await createChains(points.database.db, { directory: small.path });
      const write = (offset: number, pattern: number) =>
        ({ kind: 'write', offset, length: 2048 * KiB, pattern }) as const;
      const full = await chains.addPoint({ root: [{ kind: 'grow', sizeBytes: 8192 * KiB }, write(0, 1)] });
      const second = await chains.addPoint({ root: [write(4096 * KiB, 2)] });
      const file = join(chains.root, (await points.diskOf(second)).path);
      const readsRight = async () => (await readDisk(file)).equals(chains.expected.get(second)?.get('root') as Buffer);
      const leaseId = await chains.takeLease();
      const input = { leaseId, jobIds: [full], descendants: 'merge' as const };
      await small.fill(1024 * KiB);
      await expect(beginDeletion(chains.dependencies, input, signal)).rejects.toMatchObject({ code: 'RepositoryFull' });
      await small.empty();

      await beginDeletion(chains.dependencies, input, signal);
      await small.fillUp();
      await expect(finishDeletion(chains.dependencies, leaseId, signal)).rejects.toMatchObject({
        code: 'CleanUpFailed',
        message: expect.stringContaining('ran out of space') as string,
        cause: { code: 'RepositoryFull' },
      });
      expect(await readsRight()).toBe(true);
      expect(await findChainLease(points.database.db, leaseId)).toBeDefined();

      await small.empty();
      await finishDeletion(chains.dependencies, leaseId, signal);
      expect(await readsRight()).toBe(true);
      expect((await listPoints(points.database.db, chains.context.id)).map(({ id }) => id)).toEqual([second]);
      await chains.close();
    } finally {
      await small.remove();
      await rm(directory, { recursive: true });
    }
  });

  test('whose successor does not read what was backed up is given up', async () => {
    const hashed = await createChains(points.database.db, { hashes: true });
    try {
      const [full, second] = [
        await hashed.addPoint({
          root: [
            { kind: 'grow', sizeBytes: 512 * KiB },
            { kind: 'write', offset: 0, length: 65_536, pattern: 7 },
          ],
        }),
        await hashed.addPoint({ root: [{ kind: 'write', offset: 65_536, length: 65_536, pattern: 8 }] }),
      ];
      const file = join(hashed.root, (await points.diskOf(second)).path);
      const { fileModifiedMs } = await points.diskOf(second);
      const content = await readFile(file);
      content.fill(6, content.indexOf(Buffer.alloc(4096, 8)), content.indexOf(Buffer.alloc(4096, 8)) + 512);
      await writeFile(file, content);
      const seconds = ((fileModifiedMs ?? 0) + 0.5) / 1000;
      await utimes(file, seconds, seconds); // as rot does: no time tells of it
      const leaseId = await hashed.takeLease();
      const input = { leaseId, jobIds: [full], descendants: 'merge' as const };
      await beginDeletion(hashed.dependencies, input, signal);
      await expect(finishDeletion(hashed.dependencies, leaseId, signal)).rejects.toMatchObject({
        code: 'PointDamaged',
      });
      expect((await points.diskOf(second)).damage).toContain('does not hold what was backed up');
    } finally {
      await hashed.close();
    }
  });
});

describe('the progress of a merge', () => {
  test('tells how far each disk is: while it is written, and while it is compared', async () => {
    const hashed = await createChains(points.database.db, { hashes: true });
    try {
      const grow = { kind: 'grow', sizeBytes: 512 * KiB } as const;
      const write = { kind: 'write', offset: 0, length: 64 * KiB, pattern: 7 } as const;
      const full = await hashed.addPoint({ root: [grow, write] });
      await hashed.addPoint({ root: [{ ...write, pattern: 8 }] });
      const leaseId = await hashed.takeLease();
      await beginDeletion(hashed.dependencies, { leaseId, jobIds: [full], descendants: 'merge' }, signal);
      const told: MergeProgress[] = [];
      await finishDeletion(hashed.dependencies, leaseId, signal, (progress) => void told.push(progress));
      const root = { key: 'root', totalBytes: 512 * KiB };
      expect(told[0]).toEqual({ ...root, phase: 'merging', doneBytes: 0 });
      expect(told).toContainEqual({ ...root, phase: 'merging', doneBytes: 512 * KiB });
      expect(told).toContainEqual({ ...root, phase: 'comparing', doneBytes: 0 }); // over before it says more
    } finally {
      await hashed.close();
    }
  });
});

describe('what a deletion leaves', () => {
  test('the newest restore point that stays is the head, and a restore over the disk is not forgotten', async () => {
    await points.database.pool.query(`update backup_disks set is_restored_over = true where job_id = $1`, [
      points.jobIds[2],
    ]);
    await points.finish(await points.begin([points.jobIds[2]]));
    const heads = await listHeads(points.database.db, points.chains.context.id);
    expect(heads).toMatchObject([{ diskId: (await points.diskOf(points.jobIds[1])).id, isRestoredOver: true }]);
  });

  test('the hypervisor forgets the change ids that no head needs; one that cannot be asked is a warning', async () => {
    await points.finish(await points.begin([points.jobIds[2]]));
    expect(points.chains.forgotten).toContain(`backupvm-${points.jobIds[2]}`);
    const away = await createChains(points.database.db, {
      source: { dropChangeIds: () => Promise.reject(new Error('nobody answers')) },
    });
    try {
      await away.addPoint({ root: [{ kind: 'grow', sizeBytes: 65_536 }] });
      const leaseId = await away.takeLease();
      await beginDeletion(away.dependencies, { leaseId, jobIds: null, descendants: 'refuse' }, signal);
      const { warnings } = await finishDeletion(away.dependencies, leaseId, signal);
      expect(warnings).toEqual([expect.stringContaining('nobody answers')]);
    } finally {
      await away.close();
    }
  });
});
