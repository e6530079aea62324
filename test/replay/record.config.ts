import { defineConfig } from 'vitest/config';

/** For `npx vitest run --config test/replay/record.config.ts`: writes histories, so it is none of the projects that tests are. */
export default defineConfig({
  test: {
    pool: 'forks',
    include: ['test/replay/record-*.ts'],
    globalSetup: ['test/support/servers.ts', 'test/support/libvirtd.ts'],
    setupFiles: ['test/support/quiet.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
