import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect, test, vi } from 'vitest';
import { identify, isAlive, type ProcessIdentity } from '../../src/process/identity.js';
import { createImage } from '../../src/qemu/qemu-img.js';
import { serveDirectory } from '../support/nbd-source.js';
import { MiB, signal, useWorkbench } from './workbench.js';

const bench = useWorkbench();

async function childrenOf(pid: number): Promise<ProcessIdentity[]> {
  const pids = (await readFile(`/proc/${pid}/task/${pid}/children`, 'latin1')).trim().split(' ').filter(Boolean);
  const found = await Promise.all(pids.map((child) => identify(Number(child))));
  return found.filter((identity) => identity !== undefined);
}

test('a worker that is killed takes its copy along, nbdkit included; the export stays for the next attempt', async () => {
  await bench.makeDisk('worker.disk', randomBytes(8 * MiB));
  await createImage({ file: bench.path('worker.qcow2'), sizeBytes: 8 * MiB, signal });
  const { identity: exporting, uri } = await bench.serve('worker.qcow2');
  const script = fileURLToPath(new URL('copy-in-child.ts', import.meta.url));
  // So slow that nbdcopy would notice the broken pipe of its progress only after the test has failed. nbdkit waits for it.
  const source = await serveDirectory(bench.directory, ['--filter=delay', 'rdelay=5']);
  const args = [source.uriOf('worker.disk'), uri, bench.path('worker.copy'), String(8 * MiB)];
  const worker = spawn(process.execPath, ['--import', 'tsx', script, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines: string[] = [];
  createInterface({ input: worker.stdout }).on('line', (line) => lines.push(line));
  await vi.waitUntil(() => lines.length >= 3, { timeout: 10_000 }); // after two zeros it tells of no progress for long
  const nbdcopy = JSON.parse(lines.find((line) => line.startsWith('{')) ?? '') as ProcessIdentity;
  const nbdkit = (await childrenOf(worker.pid ?? 0)).find(({ pid }) => pid !== nbdcopy.pid);
  if (!nbdkit) throw new Error('expected nbdkit beside nbdcopy');

  worker.kill('SIGKILL');
  await vi.waitUntil(async () => !(await isAlive(nbdcopy)), { timeout: 3_000 });
  await vi.waitUntil(async () => !(await isAlive(nbdkit)), { timeout: 15_000 });
  expect(await isAlive(exporting)).toBe(true);
  await source.stop();
});
