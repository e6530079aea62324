import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import type { StorageDaemon } from '../support/storage-daemon.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
let vm: StorageDaemon;
beforeAll(async () => {
  world = await createWorld('backup-cancelled');
  vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 8 * MiB },
    { key: 'data', sizeBytes: 4 * MiB },
  ]);
  await vm.write('root', 0, 4 * MiB, 0x11);
  await world.backUp({ vm: 'web01' });
  await vm.write('data', 0, 2 * MiB, 0x22);
});
afterAll(() => world.close());

/** Cancels a backup as soon as its history has this many events. */
async function cancelAt(events: number): Promise<'complete' | 'cancelled'> {
  const handle = await world.start({ vm: 'web01' });
  await until(`event ${events}`, async () => {
    const { historyLength, status } = await handle.describe();
    return historyLength >= events || status.name !== 'RUNNING';
  });
  await handle.cancel().catch(() => undefined); // it may be complete already
  return handle.result().then(
    () => 'complete',
    (error: unknown) => {
      expect(error).toMatchObject({ cause: { name: 'CancelledFailure' } });
      return 'cancelled';
    },
  );
}

describe('a BackupVM that is cancelled', () => {
  // In every step: a full history of two disks has about 80 events.
  test.each([1, 5, 8, 12, 16, 20, 22, 24, 26, 28, 30, 32, 34, 38, 42, 48, 54, 60, 66])(
    'at event %i leaves nothing behind',
    async (events) => {
      const outcome = await cancelAt(events);
      if (events <= 12) expect(outcome).toBe('cancelled');
      await expectNothingLeftBehind(world);
    },
  );

  test('costs the next one nothing: it starts from the same parents', async () => {
    const next = await world.backUp({ vm: 'web01' });
    expect(next.disks.map(({ type, reason }) => `${type}: ${reason}`)).toEqual([
      'incremental: parent_good',
      'incremental: parent_good',
    ]);
    await expectSameContent(world, vm, next);
  });
});
