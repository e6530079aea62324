import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { identify, isAlive } from '../../src/process/identity.js';
import { ownProcesses, type OwnProcess } from '../support/end-state.js';
import { until } from '../support/until.js';
import { killIfThere, withStory } from './story.js';

describe.concurrent('in the middle of a copy', () => {
  test.for<[OwnProcess['program']]>([['qemu-nbd'], ['nbdcopy'], ['nbdkit']])(
    '%s is killed: the disk is copied anew, from a clean file, of the same moment',
    ([program]) =>
      withStory(`${program} killed`, async ({ lab, vm, startFaulty, holdCopies, expectRecovered }) => {
        const handle = await startFaulty();
        await holdCopies();
        const victim = (await ownProcesses(lab)).find((one) => one.program === program);
        killIfThere(victim?.pid ?? 0);
        await until('its end', async () => !(await ownProcesses(lab)).some(({ pid }) => pid === victim?.pid));
        vm.resume();
        await handle.result();
        await expectRecovered({ outcome: 'complete' });
      }),
  );

  test("the VM's QEMU is killed, and starts anew: its bitmaps are lost, so that the next backup is a full", () =>
    withStory('source killed', async ({ vm, startFaulty, holdCopies, expectRecovered }) => {
      const handle = await startFaulty();
      await holdCopies();
      await vm.kill();
      await vm.restart();
      await expect(handle.result()).rejects.toThrow();
      await expectRecovered({ outcome: 'failed', next: 'full' });
    }));

  test("the VM's QEMU is killed, and stays away: the backup fails, and leaves nothing", () =>
    withStory('source gone', async ({ vm, startFaulty, holdCopies, expectRecovered }) => {
      const handle = await startFaulty();
      await holdCopies();
      await vm.kill();
      await expect(handle.result()).rejects.toThrow();
      await vm.restart();
      await expectRecovered({ outcome: 'failed', next: 'full' });
    }));

  test('the worker is told to stop (SIGTERM, a deploy): it ends the copies, and the next one begins them anew', () =>
    withStory(
      'worker terminated',
      async ({ vm, firstWorker, startWorker, startFaulty, holdCopies, expectRecovered }) => {
        const handle = await startFaulty();
        await holdCopies();
        expect(await firstWorker.terminate()).toBe('exit code 0');
        vm.resume();
        await startWorker();
        await handle.result();
        await expectRecovered({ outcome: 'complete' });
      },
    ));

  test('the whole machine reboots, and numbers of dead processes belong to strangers: those are spared', () =>
    withStory(
      'machine rebooted',
      async ({ lab, vm, firstWorker, startWorker, startFaulty, holdCopies, expectRecovered }) => {
        const handle = await startFaulty();
        await holdCopies();
        await firstWorker.kill();
        await vm.kill();
        for (const { pid } of await ownProcesses(lab)) killIfThere(pid);
        const stranger = spawn('sleep', ['600']);
        try {
          const identity = await identify(stranger.pid ?? 0);
          if (!identity) throw new Error('Expected the stranger to live');
          await lab.database.pool.query(
            `update nbd_exports set boot_id = gen_random_uuid()::text, pid = $1, start_time = $2,
           copy_boot_id = gen_random_uuid()::text, copy_pid = $1, copy_start_time = $2`,
            [identity.pid, identity.startTime],
          );
          await vm.restart();
          await startWorker();
          await expect(handle.result()).rejects.toThrow(); // the VM rebooted, too: the moment that was copied is gone
          await expectRecovered({ outcome: 'failed', next: 'full' });
          expect(await isAlive(identity)).toBe(true);
        } finally {
          stranger.kill('SIGKILL');
          await once(stranger, 'exit');
        }
      },
    ));
});
