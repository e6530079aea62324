import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { builtHasher } from './test/support/built-hasher.js';

/** Files at a time: the default on two cores is one, and a test mostly waits for a step of a workflow. */
const maxWorkers = 2;

/** Begun last, the one file that takes as long as all others of its kind would run alone, on a machine that mostly waits. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const isLong = ({ moduleId }: TestSpecification) => moduleId.endsWith('/test/faults/worker-killed.test.ts');
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

/** `unit` needs no set-up. `tools` needs the external programs, `integration` also Postgres and Temporal, `libvirt` also libvirtd. */
export default defineConfig({
  plugins: [builtHasher()],
  test: {
    pool: 'forks',
    maxWorkers,
    sequence: { sequencer: LongestFirst },
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/**/*.test.ts'] } },
      {
        extends: true,
        test: { name: 'tools', include: ['test/tools/**/*.test.ts'], testTimeout: 120_000, hookTimeout: 60_000 },
      },
      {
        extends: true,
        test: {
          name: 'integration',
          include: ['test/integration/**/*.test.ts', 'test/replay/**/*.test.ts'],
          globalSetup: ['test/support/servers.ts'],
          setupFiles: ['test/support/quiet.ts'],
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'faults',
          include: ['test/faults/**/*.test.ts'],
          globalSetup: ['test/support/servers.ts', 'test/faults/bundle.ts'],
          setupFiles: ['test/support/quiet.ts'],
          sequence: { groupOrder: 1 },
          // A row waits for a heartbeat that does not come; with more of them two cores are too few.
          maxConcurrency: 8,
          testTimeout: 600_000,
          hookTimeout: 120_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'libvirt',
          include: ['test/libvirt/**/*.test.ts'],
          globalSetup: ['test/support/servers.ts', 'test/support/libvirtd.ts'],
          setupFiles: ['test/support/quiet.ts'],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          fileParallelism: false, // one libvirtd, and guests under emulation are heavy
          sequence: { groupOrder: 2 }, // `npm test` runs these beside the others: see scripts/test.sh
        },
      },
    ],
  },
});
