import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import { identify, isAlive, parseStat, stopProcess } from '../../../src/process/identity.js';

const timeouts = { termTimeoutMs: 200, killTimeoutMs: 5_000 };
const children: ChildProcess[] = [];

async function start(script: string) {
  const child = spawn(process.execPath, ['-e', `${script}; console.log('up'); setInterval(() => {}, 1000)`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  await once(child.stdout, 'data');
  const identity = await identify(child.pid ?? 0);
  if (!identity) throw new Error('the child is not up');
  return { child, identity };
}

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

describe('parseStat', () => {
  const rest = (state: string) => `${state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 22`;
  test.each([
    ['7 (nbdcopy) ', 'S', false],
    ['7 (a) b) (c) ', 'R', false],
    ['7 (qemu-nbd) ', 'Z', true],
    ['7 (qemu-nbd) ', 'X', true],
  ])('%s%s: dead is %s', (start, state, isDead) => {
    expect(parseStat(start + rest(state))).toEqual({ state, startTime: '4711', cpuTicks: 23, isDead });
  });
});

describe('isAlive', () => {
  test('is true for the process, and false for another start time or boot', async () => {
    const { identity } = await start('');
    expect(await isAlive(identity)).toBe(true);
    expect(await isAlive({ ...identity, startTime: '1' })).toBe(false);
    expect(await isAlive({ ...identity, bootId: 'of another boot' })).toBe(false);
  });
});

describe('stopProcess', () => {
  test('ends a process that honours SIGTERM, and may be repeated', async () => {
    const { identity } = await start('');
    expect(await stopProcess(identity, timeouts)).toBe('terminated');
    expect(await isAlive(identity)).toBe(false);
    expect(await stopProcess(identity, timeouts)).toBe('gone');
    expect(await identify(identity.pid)).toBeUndefined();
  });

  test('kills a process that ignores SIGTERM', async () => {
    const { identity } = await start(`process.on('SIGTERM', () => {})`);
    expect(await stopProcess(identity, timeouts)).toBe('killed');
  });

  test('spares a stranger that got the same number', async () => {
    const { child, identity } = await start('');
    expect(await stopProcess({ ...identity, startTime: '1' }, timeouts)).toBe('gone');
    expect(await stopProcess({ ...identity, bootId: 'of another boot' }, timeouts)).toBe('gone');
    expect(child.exitCode).toBeNull();
    expect(await isAlive(identity)).toBe(true);
  });
});
