import { hash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect } from 'vitest';
import { createRandom, type Random } from '../../chaos/random.js';
import { beginDeletion, finishDeletion } from '../../src/activities/deletions.js';
import type { Database } from '../../src/db/database.js';
import { getDisk, listDisks } from '../../src/db/disks.js';
import { listPoints } from '../../src/db/points.js';
import { hashesFilePath, manifestPath } from '../../src/domain/names.js';
import { runOrThrow } from '../../src/process/run.js';
import type { Manifest } from '../../src/repository/manifest.js';
import { createChains, readDisk, type Change, type Chains } from '../support/chains.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { filesBelow } from '../support/end-state.js';
import { flip } from '../support/harm.js';
import { test } from 'vitest';

const signal = new AbortController().signal;

/** Stands before qemu-img on PATH: kills a commit half-way, as often as it is told to. */
const killer = `#!/bin/sh
if [ "$1" = commit ] && [ -s "$KILL_AFTER" ]; then
  delay=$(head -n 1 "$KILL_AFTER"); sed -i 1d "$KILL_AFTER"; shift
  PATH="$REAL_PATH" qemu-img commit -r 1M "$@" & pid=$!
  sleep "$delay"; kill -9 $pid; wait $pid; exit 137
fi
PATH="$REAL_PATH" exec qemu-img "$@"
`;

let database: TestDatabase;
let bin: string;
let killFile: string;
const realPath = process.env.PATH;

beforeAll(async () => {
  database = await createTestDatabase('delete-chains');
  bin = await mkdtemp(join(tmpdir(), 'backupvm-bin-'));
  killFile = join(bin, 'kill-after');
  await writeFile(join(bin, 'qemu-img'), killer, { mode: 0o755 });
  Object.assign(process.env, { REAL_PATH: realPath, KILL_AFTER: killFile, PATH: `${bin}:${realPath}` });
});
afterAll(async () => {
  process.env.PATH = realPath;
  await rm(bin, { recursive: true });
  await database.drop();
});

/** A worker that dies: after so many calls, nothing reaches the database any more. */
function dyingAfter(db: Database, calls: number): Database {
  let left = calls;
  return new Proxy(db, {
    get(target, name) {
      const found: unknown = Reflect.get(target, name);
      if (typeof found !== 'function') return found;
      if ((left -= 1) < 0) throw new Error('killed');
      return found.bind(target) as unknown;
    },
  });
}

/** Every restore point reads as it did when it was made; rows, manifests and files tell the same; nothing else is there. */
async function expectWhole({ root, context, expected, dependencies: { db } }: Chains, jobIds: readonly string[]) {
  const points = await listPoints(db, context.id);
  expect(points.map(({ id }) => id).sort()).toEqual([...jobIds].sort());
  const files = ['.backupvm-epoch.json', '.backupvm-repository.json'];
  const heads = new Map<string, string>();
  for (const { id, pointTime } of points) {
    const manifest = manifestPath(context.directory, pointTime);
    files.push(manifest);
    const { disks } = JSON.parse(await readFile(join(root, manifest), 'utf8')) as Manifest;
    for (const disk of await listDisks(db, id)) {
      const file = join(root, disk.path);
      files.push(disk.path);
      heads.set(disk.diskKey, disk.id);
      const content = expected.get(id)?.get(disk.diskKey);
      expect((await readDisk(file)).equals(content ?? Buffer.alloc(0)), `content of ${disk.path}`).toBe(true);
      const image = await readFile(file);
      expect(`sha256:${hash('sha256', image)}`).toBe(disk.checksum);
      const parent = disk.parentId === null ? null : await getDisk(db, disk.parentId);
      expect(backingNameOf(image)).toBe(parent && basename(parent.path));
      expect(disks.find((entry) => entry.id === disk.id)).toMatchObject({
        ...{ type: disk.type, reason: disk.reason, checksum: disk.checksum, fileBytes: disk.fileBytes },
        parent: parent && { id: parent.id, path: parent.path },
      });
    }
  }
  const found = (await filesBelow(root)).filter((file) => !file.endsWith('.hashes'));
  expect(found).toEqual(files.sort());
  const { rows } = await database.pool.query<{ id: string }>(
    `select id from backup_disks where context_id = $1 and is_head`,
    [context.id],
  );
  expect(rows.map(({ id }) => id).sort()).toEqual([...heads.values()].sort());
  const left = await database.pool.query(
    `select id from merges union select id from chain_leases union select id from backup_jobs where status = 'deleting'`,
  );
  expect(left.rows).toEqual([]);
}

/** As it stands in the header of a QCOW2 file. */
function backingNameOf(image: Buffer): string | null {
  const offset = Number(image.readBigUInt64BE(8));
  return offset === 0 ? null : image.toString('latin1', offset, offset + image.readUInt32BE(16));
}

const keys = ['root', 'data'];
const sectors = (random: Random, low: number, high: number) => random.between(low, high) * 512;

function randomChange(random: Random, sizeBytes: number): Change {
  const offset = sectors(random, 0, sizeBytes / 512 - 1);
  const length = Math.min(sectors(random, 1, 800), sizeBytes - offset);
  if (random.next() < 0.3) return { kind: 'zero', offset, length };
  return { kind: 'write', offset, length, pattern: random.between(1, 255) };
}

/** One more restore point of some of the disks: with writes, zeros, holes and growth, or with nothing changed. */
async function addRandomPoint(random: Random, chains: Chains): Promise<string> {
  const chosen = keys.filter(() => random.next() < 0.7);
  const changes: Record<string, Change[]> = {};
  for (const key of chosen.length > 0 ? chosen : keys) {
    const known = await chains.headBytes(key);
    const grown = known + sectors(random, 1, known === 0 ? 4_000 : 1_000);
    const grows = known === 0 || random.next() < 0.15;
    const sizeBytes = grows ? grown : known;
    const steps = Array.from({ length: random.between(0, 4) }, () => randomChange(random, sizeBytes));
    changes[key] = [...(grows ? [{ kind: 'grow', sizeBytes } as const] : []), ...steps];
  }
  return chains.addPoint(changes, { full: random.next() < 0.1 });
}

/** Deletes with deaths of the worker and of qemu-img on the way, until it is done. */
async function deleteWithDeaths(random: Random, { dependencies }: Chains, leaseId: string): Promise<void> {
  const { db } = dependencies;
  if (random.next() < 0.5) await writeFile(killFile, `0.0${random.between(1, 9)}\n`.repeat(random.between(1, 2)));
  for (let deaths = random.between(0, 4); deaths > 0; deaths -= 1) {
    const dying = { ...dependencies, db: dyingAfter(db, random.between(5, 40)) };
    await finishDeletion(dying, leaseId, signal).catch(() => undefined);
  }
  for (let tries = 5; (await finishDeletion(dependencies, leaseId, signal).catch(() => null)) === null; tries -= 1) {
    if (tries === 0) await finishDeletion(dependencies, leaseId, signal);
  }
  await rm(killFile, { force: true });
}

describe('a random chain', () => {
  const seeds = Array.from({ length: 12 }, (_, index) => index + 1);
  test.each(seeds)('%i reads the same before and after each deletion, merge and death', async (seed) => {
    const random = createRandom(seed);
    const chains = await createChains(database.db, { hashes: seed % 10 === 0 });
    const jobIds: string[] = [];
    for (let points = random.between(4, 12); points > 0; points -= 1) {
      jobIds.push(await addRandomPoint(random, chains));
    }
    while (jobIds.length > 1) {
      const chosen = jobIds.filter(() => random.next() < 0.4);
      if (chosen.length === 0) continue;
      const descendants = random.next() < 0.8 ? 'merge' : 'delete';
      const leaseId = await chains.takeLease();
      const gone = await beginDeletion(chains.dependencies, { leaseId, jobIds: chosen, descendants }, signal);
      for (const { jobId } of gone) jobIds.splice(jobIds.indexOf(jobId), 1);
      await deleteWithDeaths(random, chains, leaseId);
      await expectWhole(chains, jobIds);
      if (jobIds.length > 0 && random.next() < 0.3) {
        jobIds.push(await addRandomPoint(random, chains));
        await expectWhole(chains, jobIds);
      }
    }
    await chains.close();
  });
});

test('a deletion that dies after any number of its steps is brought to its end by the next attempt', async () => {
  let isDone = false;
  for (let calls = 1; !isDone; calls += 1) {
    const chains = await createChains(database.db);
    const write = (offset: number) => ({ kind: 'write', offset, length: 65_536, pattern: 1 + calls }) as const;
    const jobIds = [
      await chains.addPoint({ root: [{ kind: 'grow', sizeBytes: 262_144 }, write(0)] }),
      await chains.addPoint({ root: [write(65_536)] }),
    ];
    const leaseId = await chains.takeLease();
    const { dependencies } = chains;
    await beginDeletion(dependencies, { leaseId, jobIds: jobIds.splice(0, 1), descendants: 'merge' }, signal);
    const dying = { ...dependencies, db: dyingAfter(dependencies.db, calls) };
    isDone = await finishDeletion(dying, leaseId, signal).then(
      () => true,
      () => false,
    );
    await finishDeletion(dependencies, leaseId, signal);
    await expectWhole(chains, jobIds);
    await chains.close();
  }
});

describe('a merge', () => {
  /** Two points, the first of which is about to be merged into the second. */
  async function aboutToMerge() {
    const chains = await createChains(database.db, { hashes: true });
    const write = (offset: number) => ({ kind: 'write', offset, length: 65_536, pattern: 7 }) as const;
    const zero = { kind: 'zero', offset: 0, length: 4_096 } as const;
    const first = await chains.addPoint({ root: [{ kind: 'grow', sizeBytes: 262_144 }, write(0)] });
    const second = await chains.addPoint({ root: [write(65_536), zero] });
    const leaseId = await chains.takeLease();
    const fileOf = async (jobId: string) => join(chains.root, (await listDisks(database.db, jobId))[0]?.path ?? '');
    const files = { base: await fileOf(first), successor: await fileOf(second) };
    await beginDeletion(chains.dependencies, { leaseId, jobIds: [first], descendants: 'merge' }, signal);
    return { chains, leaseId, second, files, finish: () => finishDeletion(chains.dependencies, leaseId, signal) };
  }

  test('of a file whose header leads elsewhere since it was checked is given up, and nothing is written', async () => {
    const { chains, files, finish } = await aboutToMerge();
    const secret = join(chains.root, 'secret-of-the-host');
    await writeFile(secret, Buffer.alloc(262_144, 0x5e));
    const options = { timeoutMs: 30_000 };
    await runOrThrow('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', secret, '-F', 'raw', files.base], options);
    const before = await readFile(files.base);
    await expect(finish()).rejects.toMatchObject({ code: 'PointDamaged' });
    expect((await readFile(files.base)).equals(before)).toBe(true);
    expect((await readFile(secret)).every((byte) => byte === 0x5e)).toBe(true);
    await chains.close();
  });

  test('does not believe block hashes that have changed: good points stay good', async () => {
    const { chains, second, files, finish } = await aboutToMerge();
    await flip(hashesFilePath(files.successor), 40);
    await finish();
    await expectWhole(chains, [second]);
    await chains.close();
  });
});
