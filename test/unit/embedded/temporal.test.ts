import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test as base } from 'vitest';
import { findTemporalCLI, temporalCLIVersion } from '../../../src/embedded/temporal.js';

const test = base.extend<{ home: string }>({
  home: async ({ task }, use) => {
    const home = await mkdtemp(join(tmpdir(), `backupvm-${task.id}-`));
    await use(home);
    await rm(home, { recursive: true });
  },
});

async function putProgram(path: string, mode = 0o755): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, '#!/bin/sh\n', { mode });
  return path;
}

test('TEMPORAL_CLI_PATH comes before PATH, PATH before the cache', async ({ home }) => {
  const cached = await putProgram(join(home, '.cache/backupvm', `temporal-${temporalCLIVersion}`));
  const onPath = await putProgram(join(home, 'bin/temporal'));
  const given = await putProgram(join(home, 'elsewhere/temporal-cli'));
  const path = `/no-such-folder:${dirname(onPath)}`;
  expect(await findTemporalCLI({ HOME: home, PATH: path, TEMPORAL_CLI_PATH: given })).toBe(given);
  expect(await findTemporalCLI({ HOME: home, PATH: path })).toBe(onPath);
  expect(await findTemporalCLI({ HOME: home, PATH: '/no-such-folder' })).toBe(cached);
});

test('the cache lies in XDG_CACHE_HOME where that is set', async ({ home }) => {
  const cached = await putProgram(join(home, 'xdg/backupvm', `temporal-${temporalCLIVersion}`));
  const env = { HOME: '/no-such-home', PATH: '/no-such-folder', XDG_CACHE_HOME: join(home, 'xdg') };
  expect(await findTemporalCLI(env)).toBe(cached);
});

test('a file that may not be run is passed over on PATH', async ({ home }) => {
  await putProgram(join(home, 'first/temporal'), 0o644);
  const second = await putProgram(join(home, 'second/temporal'));
  const path = `${join(home, 'first')}:${join(home, 'second')}`;
  expect(await findTemporalCLI({ HOME: home, PATH: path })).toBe(second);
});

test('a TEMPORAL_CLI_PATH that is no program is an error, not passed over', async ({ home }) => {
  const env = { HOME: home, PATH: '/bin', TEMPORAL_CLI_PATH: '/no-such/temporal' };
  await expect(findTemporalCLI(env)).rejects.toMatchObject({
    code: 'InvalidConfiguration',
    message: 'Expected a program at TEMPORAL_CLI_PATH, found none at /no-such/temporal',
  });
});

test('a missing CLI says where it was looked for and how to get it', async ({ home }) => {
  await expect(findTemporalCLI({ HOME: home, PATH: '/no-such-folder' })).rejects.toMatchObject({
    code: 'ToolMissing',
    message: expect.stringMatching(/\.cache\/backupvm\/temporal-.*scripts\/setup\.sh/) as string,
  });
});
