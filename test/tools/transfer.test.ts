import fc from 'fast-check';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { normalizeExtents, totalBytes, type Extent } from '../../src/domain/extents.js';
import { checkImage } from '../../src/qemu/qemu-img.js';
import { serveDirectory, writeSparse, type NBDSource } from '../support/nbd-source.js';
import { restore, transfer } from './transfer.js';

const KiB = 1024;
const signal = new AbortController().signal;
let directory: string;
let source: NBDSource;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-transfer-'));
  source = await serveDirectory(directory);
});

afterAll(async () => {
  await source.stop();
  await rm(directory, { recursive: true });
});

/** `same`: reported as changed, though it holds what it held. `mixed`: some data, some zeros. */
type Change = { start: number; length: number; kind: 'data' | 'zero' | 'same' | 'mixed' };
type Chain = { sectors: number; initial: Change[]; increments: { growSectors: number; changes: Change[] }[] };

/** Extents start and end on odd bytes, sectors, pages or clusters; many are short, some reach far. */
const change = fc
  .record({
    unit: fc.constantFrom(1, 512, 4 * KiB, 64 * KiB),
    start: fc.nat({ max: 4096 * KiB }),
    length: fc.oneof(
      fc.integer({ min: 1, max: 2 * KiB }),
      fc.integer({ min: 1, max: 512 * KiB }),
      fc.constant(8192 * KiB),
    ),
    kind: fc.constantFrom('data' as const, 'zero' as const, 'same' as const, 'mixed' as const),
  })
  .map(({ unit, start, length, kind }): Change => {
    return { start: start - (start % unit), length: Math.ceil(length / unit) * unit, kind };
  });

const chain: fc.Arbitrary<Chain> = fc.record({
  sectors: fc.integer({ min: 256, max: 4095 }).map((half) => 2 * half + 1), // 256 KiB to 4 MiB, never a whole page
  initial: fc.array(change, { maxLength: 12 }),
  increments: fc.array(
    fc.record({
      growSectors: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 512 })),
      changes: fc.array(change, { maxLength: 20 }),
    }),
    { minLength: 2, maxLength: 3 },
  ),
});

/** Applies the changes to the disk, and tells the extents that a hypervisor would report. Each generation writes other bytes. */
function apply(disk: Buffer, changes: Change[], generation: number): Extent[] {
  const extents = changes.map(({ start, length, kind }, index) => {
    const offset = start % disk.length;
    const end = Math.min(offset + length, disk.length);
    if (kind === 'zero' || kind === 'mixed') disk.fill(0, offset, end);
    const until = kind === 'data' ? end : kind === 'mixed' ? offset + Math.ceil((end - offset) / 3) : offset;
    for (let at = offset; at < until; at++)
      disk[at] = 1 + ((at * 31 + (at >> 8) * 17 + index * 7 + generation * 101) % 255);
    return { offset, length: end - offset };
  });
  return normalizeExtents(extents, disk.length);
}

/** Backs up a full and its incrementals, each from the state that the disk has then, and compares every point at the end. */
async function runChain(id: string, { sectors, initial, increments }: Chain): Promise<void> {
  let disk = Buffer.alloc(sectors * 512);
  apply(disk, initial, 0);
  const points: Buffer[] = [];
  const backUp = async (extents: Extent[] | null) => {
    const index = points.push(Buffer.from(disk)) - 1;
    await writeSparse(join(directory, `${id}.disk`), disk);
    const { writtenBytes } = await transfer({
      directory,
      name: `${id}-${index}.qcow2`,
      ...(extents && { parentName: `${id}-${index - 1}.qcow2` }),
      sourceUri: source.uriOf(`${id}.disk`),
      sizeBytes: disk.length,
      extents,
    });
    // Never more than the clusters that the extents touch: an incremental that is as large as a full would restore as well.
    if (extents) expect(writtenBytes).toBeLessThanOrEqual(clusterBytesOf(extents));
  };

  await backUp(null);
  for (const { growSectors, changes } of increments) {
    disk = Buffer.concat([disk, Buffer.alloc(growSectors * 512)]);
    await backUp(apply(disk, changes, points.length));
  }
  for (const [index, point] of points.entries()) {
    const restored = await restore(directory, `${id}-${index}.qcow2`);
    if (!restored.equals(point))
      throw new Error(`point ${index} differs, at the latest from byte ${differsAt(restored, point)}`);
  }
  expect(await checkImage(join(directory, `${id}-${points.length - 1}.qcow2`), signal)).toEqual({ leakedClusters: 0 });
}

/** The size of all QCOW2 clusters that these extents touch. */
function clusterBytesOf(extents: readonly Extent[]): number {
  const cluster = 65_536;
  const whole = extents.map(({ offset, length }) => {
    const start = Math.floor(offset / cluster) * cluster;
    return { offset: start, length: Math.ceil((offset + length) / cluster) * cluster - start };
  });
  return totalBytes(normalizeExtents(whole, Number.MAX_SAFE_INTEGER));
}

function differsAt(a: Buffer, b: Buffer): number {
  return a.findIndex((byte, index) => byte !== b[index]);
}

describe('a full and its incrementals', () => {
  /** Two or three extent sets in each: at least 200 in all. */
  const chains = 100;
  /** More than there are cores, because each step waits a while for the other side of a connection. */
  const lanes = 4;

  test(`restore to the very bytes, for ${chains} random chains`, { timeout: 300_000 }, async () => {
    const seed = Number(process.env.TRANSFER_SEED ?? Math.floor(Math.random() * 2 ** 31));
    const cases = fc.sample(chain, { seed, numRuns: chains });
    const queue = [...cases.entries()];
    const runLane = async () => {
      for (let next = queue.shift(); next; next = queue.shift()) {
        const [index, one] = next;
        await runChain(`case${index}`, one).catch((cause: unknown) => {
          queue.length = 0;
          const what = `chain ${index} of TRANSFER_SEED=${seed}: ${JSON.stringify(one)}`;
          throw new Error(what, { cause });
        });
      }
    };
    const outcomes = await Promise.allSettled(Array.from({ length: lanes }, runLane)); // no lane outlives the test
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  });

  test('hold with more than 5,000 extents in one incremental', async () => {
    const changes = Array.from({ length: 5_500 }, (_, index): Change => {
      return { start: index * 760, length: 300, kind: index % 3 === 0 ? 'zero' : 'data' };
    });
    const initial: Change[] = [{ start: 0, length: 4096 * KiB, kind: 'data' }];
    await runChain('many', { sectors: 8193, initial, increments: [{ growSectors: 0, changes }] });
  });

  test.each<[string, Change[]]>([
    ['nothing changed', []],
    ['the whole disk became zero', [{ start: 0, length: 8192 * KiB, kind: 'zero' }]],
    ['the whole disk is new', [{ start: 0, length: 8192 * KiB, kind: 'data' }]],
    ['only the last odd sector changed', [{ start: 512 * 1024, length: 512, kind: 'data' }]],
    ['the last odd sector became zero', [{ start: 512 * 1024, length: 512, kind: 'zero' }]],
    ['one byte became zero', [{ start: 70_001, length: 1, kind: 'zero' }]],
  ])('hold when %s', async (name, changes) => {
    const initial: Change[] = [{ start: 0, length: 8192 * KiB, kind: 'data' }];
    const increments = [{ growSectors: 0, changes }];
    await runChain(name.replaceAll(' ', '-'), { sectors: 1025, initial, increments });
  });
});
