import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind, ownProcesses } from '../support/left-behind.js';
import { makeSmallFileSystem, type SmallFileSystem } from '../support/small-file-system.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;
const disks = [{ key: 'root', sizeBytes: 8 * MiB }];

let world: World;
let scratch: SmallFileSystem;
beforeAll(async () => {
  world = await createWorld('backup-watch', {
    stallTimeoutMs: 3_000,
    async makeScratch(directory) {
      scratch = await makeSmallFileSystem(directory, 'scratch-space', 128 * MiB);
      await rm(join(scratch.path, 'lost+found'), { recursive: true });
      return scratch.path;
    },
  });
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(async () => {
  await scratch.unmount();
  await world.close();
});

const rowOf = async (column: string, vm: string) => {
  const { rows } = await world.database.pool.query<{ value: unknown }>(
    `select ${column} as value from nbd_exports e join backup_disks d on d.id = e.disk_id
     join vm_backup_contexts c on c.id = d.context_id where c.vm_name = $1`,
    [vm],
  );
  return rows[0]?.value ?? undefined;
};

/** Whether a step of the workflow has failed for this reason. */
const failedWith = async (handle: WorkflowHandle, type: string) => {
  const { events } = await handle.fetchHistory();
  return events?.some(
    ({ activityTaskFailedEventAttributes: failed }) => failed?.failure?.applicationFailureInfo?.type === type,
  );
};

describe('a copy', () => {
  test('that stands still is ended, said so, and begun anew', async () => {
    const vm = await world.startVM('stalled', disks);
    await vm.write('root', 0, 4 * MiB, 0x11);
    const handle = await world.start({ vm: 'stalled' });
    await until('the export', () => rowOf('e.pid', 'stalled'));
    vm.pause();
    await until('the copy to be ended', () => failedWith(handle, 'CopyStalled'));
    vm.resume();
    await expectSameContent(world, vm, await handle.result());
  });

  test('is fenced by its own identity: the row names the nbdcopy that runs', async () => {
    const vm = await world.startVM('fenced', disks);
    const handle = await world.start({ vm: 'fenced' });
    await until('the export', () => rowOf('e.pid', 'fenced'));
    vm.pause();
    const pid = await until('the identity of the copy', () => rowOf('e.copy_pid', 'fenced'));
    expect((await ownProcesses(world)).some((line) => line.startsWith('nbdcopy'))).toBe(true);
    process.kill(Number(pid), 'SIGKILL');
    await until(
      'the copy to be gone',
      async () => !(await ownProcesses(world)).some((line) => line.startsWith('nbdcopy')),
    );
    vm.resume();
    await expectSameContent(world, vm, await handle.result());
  });

  test('is ended before scratch space is full, and the guest runs on', async () => {
    const vm = await world.startVM('crowded', disks);
    await vm.write('root', 0, 4 * MiB, 0x11);
    const handle = await world.start({ vm: 'crowded' });
    await until('the export', () => rowOf('e.pid', 'crowded'));
    vm.pause();
    await scratch.fill(4 * MiB);
    await until('the copy to be ended', () => failedWith(handle, 'ScratchFull'));
    vm.resume();
    await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'ScratchFull' } });
    await vm.write('root', 0, MiB, 0x22); // as the guest would: it is not paused

    const before = await world.start({ vm: 'crowded' });
    await expect(before.result()).rejects.toMatchObject({ cause: { type: 'ScratchFull' } });
    await rm(join(scratch.path, 'filler'));
    await expectSameContent(world, vm, await world.backUp({ vm: 'crowded' }));
  });
});

describe('clean-up that cannot be done yet', () => {
  test('is shown as pending with its reason, and ends by itself', async () => {
    const vm = await world.startVM('patient', disks);
    await vm.write('root', 0, 4 * MiB, 0x11);
    const handle = await world.start({ vm: 'patient' });
    await until('the export', () => rowOf('e.pid', 'patient'));
    vm.pause();
    await rename(world.repository.path, `${world.repository.path}.away`);
    await handle.cancel();
    vm.resume();
    const said = await until('a reason', async () => {
      const { rows } = await world.database.pool.query<{ value: string | null }>(
        `select clean_up_error as value from backup_jobs where status = 'aborting' and clean_up = 'pending'`,
      );
      return rows[0]?.value ?? undefined;
    });
    expect(said).toMatch(/repository.*does not exist/);
    await rename(`${world.repository.path}.away`, world.repository.path);
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    const { rows } = await world.database.pool.query(
      `select status, clean_up, clean_up_error from backup_jobs where workflow_id = $1`,
      [handle.workflowId],
    );
    expect(rows).toEqual([{ status: 'cancelled', clean_up: 'done', clean_up_error: null }]);
  });
});
