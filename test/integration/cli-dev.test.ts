import { chmod, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { execa, type Options } from 'execa';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { freePorts } from '../support/ports.js';
import { until } from '../support/until.js';
import { runCommand } from '../unit/cli/run-command.js';

let parent: string;
let argv: string[];

beforeAll(async () => {
  parent = await mkdtemp(join(tmpdir(), 'backupvm-dev-'));
  await chmod(parent, 0o755); // Postgres runs as another user when we are root
  const { first } = await freePorts(3);
  const ports = ['--postgres-port', `${first}`, '--temporal-port', `${first + 1}`, '--ui-port', `${first + 2}`];
  argv = ['dev', '--json', '--data', join(parent, 'data'), ...ports];
});
afterAll(() => rm(parent, { recursive: true }));

const options = {
  reject: false,
  // Settings of somebody's Temporal Cloud must not get in the way.
  env: { BACKUPVM_HOST: 'dev-host', TEMPORAL_API_KEY: 'not for this server' },
} satisfies Options;

/** Runs it until the worker has started, does some work beside it, then presses Ctrl-C. */
async function whileRunning(work: (env: Record<string, string>) => Promise<void>, more: readonly string[] = []) {
  const env = { ...options.env, TEMPORAL_CLI_PATH: inject('temporalCLIPath') };
  const child = execa(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', ...argv, ...more], {
    ...options,
    env,
  });
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
  try {
    await until('the worker', () => log.includes('worker started') || child.exitCode !== null);
    expect(log).toContain('worker started');
    await work(readExports(await readFile(join(parent, 'data', 'env'), 'utf8')));
  } finally {
    child.kill('SIGINT');
  }
  const { exitCode, stdout } = await child;
  return { exitCode, stdout };
}

function readExports(text: string): Record<string, string> {
  return Object.fromEntries(
    [...text.matchAll(/^export (\w+)=(\S+)$/gm)].map(([, name = '', value = '']) => [name, value] as const),
  );
}

test('dev runs everything, Ctrl-C stops it, and a second start finds the data of the first', async () => {
  const first = await whileRunning(async (env) => {
    expect((await stat(join(parent, 'data', 'env'))).mode & 0o777).toBe(0o600);
    expect(env).toMatchObject({ BACKUPVM_HOST: 'dev-host', TEMPORAL_NAMESPACE: 'default' });
    expect(env['BACKUPVM_RESTORE_DIRS']).toBe(join(parent, 'data', 'restored'));
    const add = ['hypervisor', 'add', 'far', '--kind', 'libvirt', '--uri', 'qemu:///system', '--host', 'elsewhere'];
    expect(await runCommand(add, env)).toMatchObject({ exitCode: 0, stderr: '' });
  });
  expect(first.exitCode).toBe(0);
  const { postgres, envFile, restoreDirs } = JSON.parse(first.stdout) as Record<'postgres' | 'envFile', string> & {
    restoreDirs: string[];
  };
  expect(restoreDirs).toEqual([join(parent, 'data', 'restored')]);
  expect((await stat(restoreDirs[0] ?? '')).mode & 0o777).toBe(0o711); // QEMU's user passes it, and nobody lists it
  expect(envFile).toBe(join(parent, 'data', 'env'));
  expect(first.stdout).not.toContain(readExports(await readFile(envFile, 'utf8'))['DATABASE_URL']);
  const server = createServer().listen(Number(/:(\d+)\//.exec(postgres)?.[1]), '127.0.0.1');
  await once(server, 'listening'); // nothing is left there
  server.close();
  await once(server, 'close');

  const { exitCode } = await whileRunning(async (env) => {
    expect((await runCommand(['hypervisor', 'list'], env)).stdout).toContain('far   libvirt');
  });
  expect(exitCode).toBe(0);
});

test('dev refuses a folder whose Temporal data were lost, and carries on once they are given up', async () => {
  const data = join(parent, 'data');
  for (const file of await readdir(data)) if (file.startsWith('temporal.db')) await rm(join(data, file));
  const refused = await execa(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', ...argv], {
    ...options,
    env: { ...options.env, TEMPORAL_CLI_PATH: inject('temporalCLIPath') },
  });
  expect(refused.exitCode).toBe(7);
  const id = /run 'backupvm dev --lost-namespace ([0-9a-f-]{36})' instead/.exec(refused.stderr)?.[1] ?? '';
  expect(id).not.toBe('');
  const { exitCode } = await whileRunning(
    async (env) => {
      expect((await runCommand(['hypervisor', 'list'], env)).stdout).toContain('far   libvirt');
    },
    ['--lost-namespace', id],
  );
  expect(exitCode).toBe(0);
});

test('a port that is taken is named with the option that changes it', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const env = { ...options.env, TEMPORAL_CLI_PATH: inject('temporalCLIPath') };
  const { exitCode, stderr } = await runCommand([...argv, '--ui-port', `${port}`], env);
  expect(exitCode).toBe(7);
  expect(stderr).toContain(`Expected port ${port} of 127.0.0.1 free`);
  expect(stderr).toContain('--ui-port');
  server.close();
});
