import { randomUUID } from 'node:crypto';
import { link, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cleanUpLease } from '../../src/activities/clean-up-lease.js';
import type { HostDependencies } from '../../src/activities/dependencies.js';
import { keepReplaced } from '../../src/activities/kept-disks.js';
import { acquireChainLease } from '../../src/db/chain-leases.js';
import {
  beginPlacing,
  findRestore,
  insertRestore,
  listRestoreDisks,
  recordPlaced,
  recordWritten,
} from '../../src/db/restores.js';
import { restoreSiblings } from '../../src/domain/names.js';
import { readMachineId } from '../../src/process/machine-id.js';
import { namespaceOf } from '../support/job.js';
import { keptRows } from '../support/kept.js';
import { expectNoRestoreLeft, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';

// A restore that died between any two of its moves: what clean-up makes of it. Twice, since clean-up may die, too.

let world: World;
let dependencies: HostDependencies;
let contextId: string;
let jobId: string;
let backupDiskId: string;

beforeAll(async () => {
  world = await createWorld('restore-half-placed');
  const { db, pool } = world.database;
  await world.startVM('web01', [{ key: 'root', sizeBytes: 1024 * 1024 }]);
  jobId = (await world.backUp({ vm: 'web01' })).jobId;
  const { rows } = await pool.query<{ id: string; context_id: string }>('select id, context_id from backup_disks');
  [backupDiskId, contextId] = [rows[0]?.id ?? '', rows[0]?.context_id ?? ''];
  dependencies = {
    ...{ db, host: world.config.host, machineId: readMachineId(), nbdPorts: world.config.nbdPorts },
    ...{ runDir: world.config.runDir, scratchDir: world.config.scratchDir, stallTimeoutMs: 1_000 },
    restoreDirs: world.config.restoreDirs,
    createSource: () => expect.fail('files need no hypervisor'),
  };
});
afterAll(() => world.close());

/** A restore of one disk whose content is `new`, in a directory where it may replace `old`. */
async function halfDone(hadFile: boolean, keepReplacedSeconds = 0) {
  const { db } = world.database;
  const leaseId = randomUUID();
  const directory = await targetDirectory(world, leaseId);
  const path = join(directory, 'disk.raw');
  const siblings = restoreSiblings(path, leaseId, 'root');
  const lease = { id: leaseId, contextId, mode: 'shared', purpose: 'restore', workflowId: 'w', runId: 'r' } as const;
  expect(await acquireChainLease(db, lease, await namespaceOf(db))).toEqual([]);
  const restore = {
    ...({ leaseId, jobId, target: 'files', overwrite: hadFile, keepReplacedSeconds } as const),
    ...{ hypervisorId: null, vmId: null, vmName: null },
  };
  const keptPath = hadFile ? siblings.keptPath : null;
  const disk = { backupDiskId, path, attemptPath: siblings.attemptPath, keptPath, format: 'raw' } as const;
  const [row] = await insertRestore(db, restore, [disk], 'lab');
  if (hadFile) await writeFile(path, 'old');
  await writeFile(siblings.attemptPath, 'new');
  return { db, leaseId, directory, path, ...siblings, rowId: row?.id ?? '' };
}

type Half = Awaited<ReturnType<typeof halfDone>>;

async function decide({ db, leaseId, rowId }: Half): Promise<void> {
  expect(await recordWritten(db, rowId, 3)).toBe(true);
  await beginPlacing(db, (await findRestore(db, leaseId)) ?? expect.fail('no restore'));
}

const cleanUp = ({ leaseId }: Half) => cleanUpLease(dependencies, leaseId, AbortSignal.timeout(60_000));

describe('a restore that was decided upon is finished', () => {
  test.each<[what: string, hadFile: boolean, died: (half: Half) => Promise<void>]>([
    ['before its first move', false, async () => undefined],
    ['between the new name and the end of the old one', false, (half) => link(half.attemptPath, half.path)],
    ['after its move, which no row tells of', false, (half) => rename(half.attemptPath, half.path)],
    ['before the old file was kept', true, async () => undefined],
    ['after the old file was kept', true, (half) => link(half.path, half.keptPath)],
    ['after the old file was moved, where links are not known', true, (half) => rename(half.path, half.keptPath)],
    [
      'after the move, and before the old file went',
      true,
      async (half) => {
        await link(half.path, half.keptPath);
        await rename(half.attemptPath, half.path);
        await recordPlaced(half.db, half.rowId);
      },
    ],
  ])('%s', async (_what, hadFile, died) => {
    const half = await halfDone(hadFile);
    await decide(half);
    await died(half);
    await cleanUp(half);
    await cleanUp(half);
    expect(await readFile(half.path, 'utf8')).toBe('new');
    await expectNoRestoreLeft(world, half.directory, ['disk.raw']);
  });
});

describe('a restore that was decided upon, and keeps what it replaces, has it with a row, and finishes', () => {
  const keep = async (half: Half) => {
    const restore = (await findRestore(half.db, half.leaseId)) ?? expect.fail('no restore');
    const [disk] = await listRestoreDisks(half.db, half.leaseId);
    await keepReplaced(dependencies, restore, disk ?? expect.fail('no disk'));
  };
  test.each<[what: string, died: (half: Half) => Promise<void>]>([
    ['before its row', async () => undefined],
    ['after its row, before the old file was kept', keep],
    [
      'after its row, and the old file was changed since',
      async (half) => {
        await keep(half);
        await writeFile(half.path, 'older');
        await writeFile(half.path, 'old');
      },
    ],
    [
      'after the old file was kept, before the new one had its name',
      async (half) => {
        await keep(half);
        await link(half.path, half.keptPath);
      },
    ],
    [
      'after the old file was moved, where links are not known',
      async (half) => {
        await keep(half);
        await rename(half.path, half.keptPath);
      },
    ],
    [
      'after the move, which no row of the disk tells',
      async (half) => {
        await keep(half);
        await link(half.path, half.keptPath);
        await rename(half.attemptPath, half.path);
      },
    ],
    [
      'after the move, with the rows of an older database, which knows of no kept file',
      async (half) => {
        await link(half.path, half.keptPath);
        await rename(half.attemptPath, half.path);
        await recordPlaced(half.db, half.rowId);
      },
    ],
  ])('%s', async (_what, died) => {
    const half = await halfDone(true, 3_600);
    await decide(half);
    await died(half);
    await cleanUp(half);
    await cleanUp(half);
    expect(await readFile(half.path, 'utf8')).toBe('new');
    expect(await readFile(half.keptPath, 'utf8')).toBe('old');
    const rows = (await keptRows(world)).filter(({ keptPath }) => keptPath === half.keptPath);
    expect(rows).toMatchObject([{ path: half.path, keepsOn: true, problem: null }]);
    await expectNoRestoreLeft(world, half.directory, ['disk.raw']);
  });

  test('and a late attempt keeps nothing once it has ended', async () => {
    const half = await halfDone(true, 3_600);
    await decide(half);
    const restore = (await findRestore(half.db, half.leaseId)) ?? expect.fail('no restore');
    const [disk] = await listRestoreDisks(half.db, half.leaseId);
    await cleanUp(half);
    await rename(half.keptPath, half.attemptPath); // as the late attempt would still see it
    await expect(keepReplaced(dependencies, restore, disk ?? expect.fail('no disk'))).rejects.toMatchObject({
      code: 'Cancelled',
    });
  });
});

describe('a restore that was not', () => {
  test.each([true, false])('is undone, and the file that was there before (%s) is as it was', async (hadFile) => {
    const half = await halfDone(hadFile);
    await cleanUp(half);
    expect(await readdir(half.directory)).toEqual(hadFile ? ['disk.raw'] : []);
    if (hadFile) expect(await readFile(half.path, 'utf8')).toBe('old');
    await expectNoRestoreLeft(world, half.directory, hadFile ? ['disk.raw'] : []);
  });

  test('cannot be decided upon by a late attempt, once clean-up has begun', async () => {
    const half = await halfDone(false);
    const restore = (await findRestore(half.db, half.leaseId)) ?? expect.fail('no restore');
    await cleanUp(half);
    expect(await recordWritten(half.db, half.rowId, 3)).toBe(false);
    await expect(beginPlacing(half.db, restore)).rejects.toMatchObject({ code: 'Cancelled' });
    await expectNoRestoreLeft(world, half.directory);
  });
});

test('a file that somebody else made meanwhile under the name is not overwritten: clean-up waits, and says why', async () => {
  const half = await halfDone(false);
  await decide(half);
  await writeFile(half.path, 'theirs');
  await expect(cleanUp(half)).rejects.toMatchObject({
    code: 'CleanUpFailed',
    message: expect.stringContaining('move it away') as string,
  });
  expect(await readFile(half.path, 'utf8')).toBe('theirs');
  await rename(half.path, join(half.directory, 'theirs'));
  await cleanUp(half);
  expect(await readFile(half.path, 'utf8')).toBe('new');
  await expectNoRestoreLeft(world, half.directory, ['disk.raw', 'theirs']);
});
