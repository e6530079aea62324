import { ESLint } from 'eslint';
import tseslint from 'typescript-eslint';
import { describe, expect, test } from 'vitest';

// The rules about types need the whole program, take seconds, and say nothing about imports.
const eslint = new ESLint({ cwd: process.cwd(), overrideConfig: tseslint.configs.disableTypeChecked as never });
const layerRules = ['@typescript-eslint/no-restricted-imports', 'no-restricted-imports'];

async function refusals(file: string, code: string): Promise<string[]> {
  const [result] = await eslint.lintText(`${code}\n`, { filePath: file });
  const fatal = result?.messages.find((message) => message.fatal);
  if (fatal) throw new Error(`${file}: ${fatal.message}`);
  return result?.messages.flatMap(({ ruleId }) => (ruleId && layerRules.includes(ruleId) ? [ruleId] : [])) ?? [];
}

describe('a layer may not import', () => {
  test.each([
    ['src/workflows/a.ts', 'node:fs'],
    ['src/workflows/a.ts', 'fs'],
    ['src/workflows/a.ts', 'pg'],
    ['src/workflows/a.ts', 'execa'],
    ['src/workflows/a.ts', '@temporalio/worker'],
    ['src/workflows/a.ts', '@temporalio/activity'],
    ['src/workflows/a.ts', '../db/jobs.js'],
    ['src/workflows/a.ts', '../activities/jobs.js'],
    ['src/workflows/a.ts', '../process/run.js'],
    ['src/workflows/a.ts', '../config/config.js'],
    ['src/workflows/a.ts', '../worker.js'],
    ['src/domain/a.ts', '../db/jobs.js'],
    ['src/domain/a.ts', '../workflows/messages.js'],
    ['src/domain/a.ts', './../sources/source.js'],
    ['src/domain/a.ts', 'node:fs'],
    ['src/domain/a.ts', '@temporalio/common'],
    ['src/activities/a.ts', '../workflows/messages.js'],
    ['src/activities/a.ts', '../config/config.js'],
    ['src/activities/a.ts', '../cli/terminal.js'],
    ['src/activities/a.ts', '../embedded/postgres.js'],
    ['src/activities/a.ts', '../worker.js'],
    ['src/activities/a.ts', 'execa'],
    ['src/db/a.ts', '@temporalio/common'],
    ['src/db/a.ts', '../config/config.js'],
    ['src/db/a.ts', '../repository/files.js'],
    ['src/db/a.ts', '../sources/source.js'],
    ['src/db/a.ts', '../process/run.js'],
    ['src/sources/a.ts', '../db/jobs.js'],
    ['src/sources/libvirt/a.ts', '../../db/jobs.js'],
    ['src/sources/libvirt/a.ts', '../../config/config.js'],
    ['src/sources/libvirt/a.ts', '@temporalio/activity'],
    ['src/sources/libvirt/a.ts', '../qmp/client.js'],
    ['src/sources/libvirt/a.ts', 'execa'],
    ['src/repository/a.ts', '../db/jobs.js'],
    ['src/repository/a.ts', '../sources/source.js'],
    ['src/repository/a.ts', '@temporalio/activity'],
    ['src/hashes/a.ts', '../db/jobs.js'],
    ['src/hashes/a.ts', '../activities/seal.js'],
    ['src/hashes/a.ts', '@temporalio/activity'],
    ['src/hashes/a.ts', 'execa'],
    ['src/repository/a.ts', '../hashes/table.js'],
    ['src/qemu/a.ts', '../repository/files.js'],
    ['src/qemu/a.ts', 'execa'],
    ['src/qemu/a.ts', 'node:child_process'],
    ['src/nbd/a.ts', '../config/config.js'],
    ['src/nbd/a.ts', '../qemu/qemu-img.js'],
    ['src/process/a.ts', '../config/config.js'],
    ['src/config/a.ts', '../db/database.js'],
    ['src/embedded/a.ts', '../config/config.js'],
    ['src/cli/a.ts', 'execa'],
    ['src/cli/a.ts', 'node:child_process'],
    ['src/worker.ts', 'execa'],
  ])('%s: %s', async (file, specifier) => {
    expect(await refusals(file, `import { a } from '${specifier}';`)).not.toEqual([]);
    expect(await refusals(file, `export { a } from '${specifier}';`)).not.toEqual([]);
  });
});

describe('a layer may import', () => {
  test.each([
    ['src/workflows/a.ts', './steps.js'],
    ['src/workflows/a.ts', '../domain/plan.js'],
    ['src/workflows/a.ts', '@temporalio/workflow'],
    ['src/workflows/a.ts', '@temporalio/common'],
    ['src/domain/a.ts', './errors.js'],
    ['src/domain/a.ts', 'zod'],
    ['src/activities/a.ts', '@temporalio/activity'],
    ['src/activities/a.ts', './heartbeat.js'],
    ['src/activities/a.ts', '../db/jobs.js'],
    ['src/activities/a.ts', '../sources/source.js'],
    ['src/activities/a.ts', 'node:fs/promises'],
    ['src/db/a.ts', 'drizzle-orm'],
    ['src/db/a.ts', '../domain/names.js'],
    ['src/sources/connect.ts', './libvirt/libvirt-source.js'],
    ['src/sources/libvirt/a.ts', '../source.js'],
    ['src/sources/libvirt/a.ts', '../../domain/errors.js'],
    ['src/sources/libvirt/a.ts', '../../process/run.js'],
    ['src/repository/a.ts', '../process/run.js'],
    ['src/activities/a.ts', '../hashes/hash-disk.js'],
    ['src/hashes/a.ts', '../repository/durable.js'],
    ['src/hashes/a.ts', '../qemu/map-image.js'],
    ['src/qemu/a.ts', '../nbd/nbdinfo.js'],
    ['src/process/a.ts', 'execa'],
    ['src/embedded/a.ts', 'node:child_process'],
    ['src/embedded/a.ts', '@temporalio/client'],
    ['src/config/a.ts', '@temporalio/envconfig'],
    ['src/cli/a.ts', '../db/jobs.js'],
    ['src/cli/a.ts', '../embedded/postgres.js'],
    ['src/worker.ts', './config/config.js'],
  ])('%s: %s', async (file, specifier) => {
    expect(await refusals(file, `import { a } from '${specifier}';`)).toEqual([]);
  });

  test('types only, where a workflow names the activities that it calls', async () => {
    expect(await refusals('src/workflows/a.ts', "import type { A } from '../activities/jobs.js';")).toEqual([]);
    expect(await refusals('src/domain/a.ts', "import type { A } from '../db/jobs.js';")).not.toEqual([]);
  });
});
