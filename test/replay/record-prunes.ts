import { afterAll, beforeAll, expect, test } from 'vitest';
import type { PruneBackupsRequest } from '../../src/domain/prune-input.js';
import type { PruneBackupsResult } from '../../src/domain/prune-result.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { createWorld, type World } from '../support/world.js';
import { keepHistory } from './keep-history.js';

// Prunes in all the ways that a stored history must cover, and records each. Not a test of the suite: see record.config.ts.

const MiB = 1024 * 1024;

let world: World;
beforeAll(async () => {
  world = await createWorld('record-prunes');
  for (const name of ['web01', 'web02']) {
    const vm = await world.startVM(name, [{ key: 'root', sizeBytes: 4 * MiB }]);
    for (const pattern of [1, 2, 3]) {
      await vm.write('root', 0, pattern * 65_536, pattern);
      await world.backUp({ vm: name });
    }
  }
});
afterAll(() => world.close());

const start = (caseName: string, input: PruneBackupsRequest) =>
  world.client.workflow.start<(input: PruneBackupsRequest) => Promise<PruneBackupsResult>>('PruneBackups', {
    ...{ taskQueue: mainQueue, workflowId: `prune-backups/${caseName}`, args: [input] },
  });

async function record(workflowId: string, caseName: string): Promise<void> {
  await keepHistory(world.client, { workflowId }, caseName);
}

test.each<[string, PruneBackupsRequest]>([
  ['dry-run', { policy: { keepLast: 1 }, dryRun: true }],
  ['pruned', { policy: { keepLast: 1 } }],
  ['nothing-expired', { vm: 'web01', policy: { keepLast: 1 } }],
])('%s', async (caseName, input) => {
  const handle = await start(caseName, input);
  const { vms } = await handle.result();
  await record(handle.workflowId, caseName);
  await record(vms[0]?.workflowId ?? '', caseName);
});

test('refused: no policy', async () => {
  const handle = await start('refused-no-policy', {});
  await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'NoPolicy' } });
  await record(handle.workflowId, 'refused-no-policy');
});
