import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { createProgram } from '../../../src/cli/run-cli.js';
import { recordTerminal, runCommand } from './run-command.js';

function leaves(command: Command, path: string[] = []): { path: string[]; command: Command }[] {
  if (command.commands.length === 0) return [{ path, command }];
  return command.commands.flatMap((child) => leaves(child, [...path, child.name()]));
}

const commands = leaves(createProgram(recordTerminal({}).terminal));
const manual = readFileSync(new URL('../../../docs/cli.md', import.meta.url), 'utf8');

describe.each(commands.map(({ path, command }) => [path.join(' '), path, command] as const))(
  'backupvm %s',
  (name, path, command) => {
    test('shows an example in its help', async () => {
      const { exitCode, stdout, stderr } = await runCommand([...path, '--help'], {});
      expect(exitCode).toBe(0);
      expect(stdout).toContain(`Example:\n  $ backupvm ${name}`);
      expect(stderr).toBe('');
    });

    test('knows --json', () => expect(command.options.map(({ long }) => long)).toContain('--json'));

    test('stands in docs/cli.md with every option', () => {
      const section = manual.split(/^## /m).find((text) => text.includes(`$ backupvm ${name}`)) ?? '';
      expect(section, `an example of 'backupvm ${name}'`).not.toBe('');
      for (const { long } of command.options.filter(({ long }) => long !== '--json')) expect(section).toContain(long);
    });

    test('refuses an option that it does not know, and names itself', async () => {
      // commander looks for missing options first
      const required = command.options.filter(({ mandatory }) => mandatory);
      const given = required.flatMap(({ long, argChoices }) => [long ?? '', argChoices?.[0] ?? 'x']);
      const { exitCode, stdout, stderr } = await runCommand([...path, ...given, '--bogus'], {});
      expect(exitCode).toBe(2);
      expect(stderr).toContain(`backupvm ${name}: unknown option '--bogus'`);
      expect(stderr).toContain(`see 'backupvm ${name} --help'`);
      expect(stdout).toBe('');
    });
  },
);

describe('bad command lines exit with 2 and a hint', () => {
  test.each([
    [['nope'], "backupvm: unknown command 'nope'; see 'backupvm --help'"],
    [['job', 'lst'], "unknown command 'lst' (Did you mean list?)"],
    [['backup'], "missing required argument 'vm'"],
    [['job', 'list', 'surplus'], 'too many arguments'],
    [['job', 'list', '--limit', 'ten'], 'Expected a whole number from 1 to 10000'],
    [['job', 'list', '--status', 'sealed'], 'Allowed choices are running, complete, deleting, failed, cancelled'],
    [['hypervisor', 'add', 'a', '--kind', 'vsphere', '--uri', 'x'], 'Allowed choices are libvirt, qmp'],
    [['hypervisor', 'add', 'a\nb', '--kind', 'qmp', '--uri', 'x'], 'without control characters'],
    [['repository', 'add', 'x'.repeat(201), '--path', '/srv'], '1 to 200 characters'],
    [['backup', 'web01', '--type', 'partial'], `type: expected one of 'auto', 'full', 'incremental', found "partial"`],
    [['backup', 'web01', '--max-parallel-disks', 'many'], 'maxParallelDisks: expected a number, found "many"'],
    [['backup', 'web01', '--max-chain-length', '0'], 'maxChainLength: expected 1 to 1000, found 0'],
    [['backup', 'x'.repeat(201)], 'at most 200 characters'],
    [['job', 'list'], 'DATABASE_URL: expected postgres://'],
  ])('%j', async (argv, message) => {
    const { exitCode, stdout, stderr } = await runCommand(argv, {});
    expect(stderr).toContain(message);
    expect(exitCode).toBe(2);
    expect(stdout).toBe('');
  });

  test('with --json as a document', async () => {
    const { exitCode, stdout, stderr } = await runCommand(['job', 'list', '--json', '--bogus'], {});
    expect(exitCode).toBe(2);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: 'InvalidInput', exitCode: 2 } });
    expect(stdout).toBe('');
  });

  test('all problems of an input are named at once', async () => {
    const { stderr } = await runCommand(['backup', 'web01', '--type', 'x', '--quiesce', 'y', '--disk', ''], {});
    for (const field of ['type', 'quiesce', 'disks.0']) expect(stderr).toContain(`${field}: expected`);
  });

  test.each([[[]], [['hypervisor']], [['job']]])('without a command: %j, with the help page', async (argv) => {
    const { exitCode, stdout, stderr } = await runCommand(argv, {});
    expect(exitCode).toBe(2);
    expect(stderr).toContain('Commands:');
    expect(stdout).toBe('');
  });
});

test('--version prints the version of the package', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  expect(await runCommand(['--version'], {})).toEqual({ exitCode: 0, stdout: `${version}\n`, stderr: '' });
});
