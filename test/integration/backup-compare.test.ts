import { afterAll, beforeAll, expect, test } from 'vitest';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
beforeAll(async () => {
  world = await createWorld('backup-compare');
});
afterAll(() => world.close());

/** The steps of a run on the host, in the order in which they were begun. */
async function stepsOf(workflowId: string): Promise<string[]> {
  const { events } = await world.client.workflow.getHandle(workflowId).fetchHistory();
  return (events ?? []).flatMap(
    ({ activityTaskScheduledEventAttributes: scheduled }) => scheduled?.activityType?.name ?? [],
  );
}

test('a backup that is to compare reads each copy against the open snapshot, and one that is not does no such thing', async () => {
  const vm = await world.startVM('web01', [{ key: 'root', sizeBytes: 4 * MiB }]);
  await vm.write('root', 0, MiB, 0x11);
  const full = await world.backUp({ vm: 'web01', compare: true });
  const steps = await stepsOf('backup-vm/web01');
  expect(steps.slice(steps.indexOf('transferDisk'))).toEqual([
    ...['transferDisk', 'stopExport', 'compareCopy', 'closeSnapshot', 'sealRestorePoint', 'cleanUp'],
  ]);
  await expectSameContent(world, vm, full);

  await vm.write('root', 2 * MiB, MiB, 0x22);
  await vm.zero('root', 0, 64 * 1024);
  const incremental = await world.backUp({ vm: 'web01', compare: true });
  expect(incremental.disks.map(({ type }) => type)).toEqual(['incremental']);
  await expectSameContent(world, vm, incremental);
  await world.backUp({ vm: 'web01' });
  expect(await stepsOf('backup-vm/web01')).not.toContain('compareCopy');
  await expectNothingLeftBehind(world);
});
