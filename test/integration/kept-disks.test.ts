import { randomUUID } from 'node:crypto';
import { copyFile, lstat, mkdir, readFile, rename, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { listDueKept } from '../../src/db/kept-disks.js';
import type { RestoreVMResult } from '../../src/domain/restore-result.js';
import { mainQueue } from '../../src/workflows/messages.js';
import type { ReconcileHostResult } from '../../src/workflows/reconcile-host.js';
import { keptRows } from '../support/kept.js';
import { expectContent, expectNoRestoreLeft, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { documentOf, runCommand } from '../unit/cli/run-command.js';

// What a restore replaces stays for a while. Here files stand for a VM's disks: what happens to them is the same.

const MiB = 1024 * 1024;
let world: World;
let held: string;
let pointId: string;
let directory: string;
let restored: RestoreVMResult;

beforeAll(async () => {
  world = await createWorld('kept-disks');
  const vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 2 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  held = join(world.directory, 'held');
  await vm.read('root', held);
  pointId = (await world.backUp({ vm: 'web01' })).jobId;
});
beforeEach(async () => {
  directory = await targetDirectory(world, randomUUID());
  await writeFile(join(directory, 'web01-root.qcow2'), 'old');
  restored = await restoreOver('1h');
});
afterAll(() => world.close());

const restoreOver = (keepReplaced?: string) =>
  restoreVM(world, {
    ...{ point: pointId, target: { kind: 'files', directory }, overwrite: true },
    ...(keepReplaced !== undefined && { keepReplaced }),
  });
const kept = () => restored.kept[0] ?? expect.fail('nothing was kept');
const backupvm = (...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });
const rowsHere = async () => (await keptRows(world)).filter(({ keptPath }) => dirname(keptPath) === directory);

/** What ReconcileHost says of this test's kept disk. */
async function reconcile(dryRun = false): Promise<string | undefined> {
  const { keptDisks } = (await world.client.workflow.execute('ReconcileHost', {
    taskQueue: mainQueue,
    workflowId: `reconcile/${randomUUID()}`,
    args: [{ host: world.config.host, dryRun }],
  })) as ReconcileHostResult;
  return keptDisks?.find(({ id }) => id === kept().id)?.outcome;
}

/** Its time is up, by the clock of the database. */
const expire = () =>
  world.database.pool.query(`update kept_disks set kept_until = now() - interval '1 second' where id = $1`, [
    kept().id,
  ]);

test('the result names the kept file and its time; it holds every old byte, and shows at its point and in the list', async () => {
  const path = join(directory, 'web01-root.qcow2');
  expect(kept().path).toBe(path);
  expect(await readFile(kept().keptPath, 'utf8')).toBe('old');
  const untilMs = new Date(kept().keptUntil).getTime() - Date.now();
  expect(untilMs).toBeGreaterThan(50 * 60_000);
  expect(untilMs).toBeLessThanOrEqual(61 * 60_000);
  for (const disk of restored.disks) await expectContent(disk, held, join(world.directory, 'raw'));
  const shown = await backupvm('point', 'show', pointId);
  expect(shown.stdout).toContain(`${path}, kept as ${kept().keptPath} until `);
  const listed = documentOf<{ kept: { keptPath: string }[] }>(await backupvm('kept', 'list', '--json'));
  expect(listed.kept.map(({ keptPath }) => keptPath)).toContain(kept().keptPath);
  await expectNoRestoreLeft(world, directory, ['web01-root.qcow2']);
});

test('it stays until its time is up, and then goes, alone; a dry run only tells', async () => {
  expect(await reconcile()).toBe('kept');
  expect(await readFile(kept().keptPath, 'utf8')).toBe('old');
  await expire();
  expect(await reconcile(true)).toBe('kept');
  expect(await readFile(kept().keptPath, 'utf8')).toBe('old');
  expect(await reconcile()).toBe('removed');
  await expect(lstat(kept().keptPath)).rejects.toMatchObject({ code: 'ENOENT' });
  expect(await rowsHere()).toEqual([]);
  for (const disk of restored.disks) await expectContent(disk, held, join(world.directory, 'raw'));
});

test('a person drops it before its time, or keeps it for longer', async () => {
  const refused = await backupvm('kept', 'drop', kept().id);
  expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining('--yes')]);
  await expire();
  expect((await backupvm('kept', 'extend', kept().id, '--for', '7d')).exitCode).toBe(0);
  expect(await reconcile()).toBe('kept');
  const dropped = await backupvm('kept', 'drop', kept().id.slice(0, 8), '--yes');
  expect(dropped.stdout).toContain(`backupvm reconcile --host ${world.config.host}`);
  expect(await reconcile()).toBe('removed');
  expect((await backupvm('kept', 'extend', kept().id, '--for', '7d')).exitCode).toBe(3);
});

test('without a time that a person gave, a file that may be overwritten is not kept', async () => {
  const again = await restoreOver();
  expect(again.kept).toEqual([]);
  expect((await restoreOver('none')).kept).toEqual([]);
  await expectNoRestoreLeft(world, directory, ['web01-root.qcow2']);
});

test('put back by hand, it is forgotten and stays where it is', async () => {
  await rename(kept().keptPath, kept().path);
  await expire();
  expect(await reconcile()).toBe('gone');
  expect(await rowsHere()).toEqual([]);
  expect(await readFile(kept().path, 'utf8')).toBe('old');
});

describe('what is under its name is left alone, and said why, where it is', () => {
  beforeEach(expire);

  test.each<[what: string, change: (keptPath: string) => Promise<unknown>, why: string]>([
    ['another file', replaceByCopy, 'no longer the file'],
    ['changed since', (path) => writeFile(path, 'new content'), 'no longer the file'],
    ['of another time', (path) => utimes(path, 1, 1), 'no longer the file'],
    ['a link', replaceByLink, 'no plain file'],
    ['a directory', replaceByDirectory, 'no plain file'],
  ])('%s', async (_what, change, why) => {
    await change(kept().keptPath);
    const before = await lstat(kept().keptPath);
    expect(await reconcile()).toContain(`left: `);
    expect(await reconcile()).toContain(why);
    expect((await lstat(kept().keptPath)).ino).toBe(before.ino);
    expect(await rowsHere()).toMatchObject([{ problem: expect.stringContaining(why) as string }]);
    expect((await backupvm('kept', 'forget', kept().id, '--yes')).exitCode).toBe(0);
    expect(await reconcile()).toBeUndefined();
    expect((await lstat(kept().keptPath)).ino).toBe(before.ino);
  });

  test('all that is left, because the restored disk is gone', async () => {
    await rm(kept().path);
    expect(await reconcile()).toContain(`nothing is at ${kept().path}`);
    expect(await readFile(kept().keptPath, 'utf8')).toBe('old');
  });

  test('away together with the restored disk, as with a file system that is not mounted: its row stays', async () => {
    const aside = `${directory}.unmounted`;
    await rename(directory, aside);
    expect(await reconcile()).toContain('mount');
    expect(await rowsHere()).toHaveLength(1);
    await rename(aside, directory);
    expect(await reconcile()).toBe('removed');
  });
});

test('it stays while the lease of its restore is there, although its time is up', async () => {
  await expire();
  const { db, pool } = world.database;
  expect((await listDueKept(db, world.config.host)).map(({ id }) => id)).toContain(kept().id);
  await pool.query(
    `insert into chain_leases (namespace_id, id, context_id, mode, purpose, workflow_id, run_id)
     select (select namespace_id from installations), restore_id, (select id from vm_backup_contexts), 'shared', 'restore', 'w', 'r'
     from kept_disks where id = $1`,
    [kept().id],
  );
  expect((await listDueKept(db, world.config.host)).map(({ id }) => id)).not.toContain(kept().id);
  await pool.query(`delete from chain_leases where workflow_id = 'w'`);
  expect(await reconcile()).toBe('removed');
});

async function replaceByCopy(path: string): Promise<void> {
  await copyFile(path, `${path}.copy`);
  const { atime, mtime } = await lstat(path);
  await rename(`${path}.copy`, path);
  await utimes(path, atime, mtime);
}

async function replaceByLink(path: string): Promise<void> {
  await rename(path, `${path}.aside`);
  await symlink(`${path}.aside`, path);
}

async function replaceByDirectory(path: string): Promise<void> {
  await rm(path);
  await mkdir(path);
}
