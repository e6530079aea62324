import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { firstUncovered, normalizeExtents, type Extent } from '../../src/domain/extents.js';
import { changeIdOf, type OpenSnapshot, type SnapshotDisk, type Source } from '../../src/sources/source.js';
import { describeIdentities } from './source-identity.js';
import { expectImages, granularityBytes, granulesOf, readExport, type SourceFixture } from './source-fixture.js';

const KiB = 1024;

/** Holds a connector to the doc comments of `Source`, byte for byte. Bitmaps of 64 KiB may round extents up, and no further. */
export function describeSourceContract(name: string, makeFixture: () => Promise<SourceFixture>): void {
  describe(`${name} keeps the Source contract`, () => {
    const signal = new AbortController().signal;
    let fixture: SourceFixture;
    let source: Source;
    let vmId: string;
    let directory: string;
    let first: string;
    let second: string;
    let opened: string[] = [];

    beforeAll(async () => {
      directory = await mkdtemp(join(tmpdir(), 'backupvm-contract-'));
      fixture = await makeFixture();
      source = fixture.source;
      vmId = (await source.describeVM(fixture.vmName, signal)).vmId;
      [first, second] = fixture.disks.map(({ key }) => key) as [string, string];
    });

    beforeEach(() => {
      opened = [];
    });

    afterEach(async () => {
      for (const snapshotId of opened) await source.closeSnapshot(vmId, snapshotId, signal);
      await source.dropChangeIds(vmId, opened.map(changeIdOf), signal);
    });

    afterAll(async () => {
      await fixture.dispose();
      await rm(directory, { recursive: true, force: true });
    });

    type Bases = Record<string, string | null>;

    function open(snapshotId: string, bases: Bases = { [first]: null, [second]: null }): Promise<OpenSnapshot> {
      opened.push(snapshotId);
      const disks = Object.entries(bases).map(([key, baseChangeId]) => ({ key, baseChangeId }));
      return source.openSnapshot({ snapshotId, vmId, quiesce: 'off', disks }, signal);
    }

    /** A finished run that is kept: the base of later ones. */
    async function makeBase(bases?: Bases): Promise<string> {
      const snapshotId = randomUUID();
      await open(snapshotId, bases);
      await source.closeSnapshot(vmId, snapshotId, signal);
      return changeIdOf(snapshotId);
    }

    const both = (baseChangeId: string | null): Bases => ({ [first]: baseChangeId, [second]: baseChangeId });

    function diskOf(snapshot: OpenSnapshot, key: string): SnapshotDisk {
      const disk = snapshot.disks.find((candidate) => candidate.key === key);
      if (!disk) throw new Error(`the snapshot has no disk ${key}`);
      return disk;
    }

    const read = ({ uri }: SnapshotDisk) => readExport(uri, join(directory, 'read.raw'));

    async function expectSameBytes(disk: SnapshotDisk, expected: Buffer): Promise<void> {
      const found = await read(disk);
      expect(found.length).toBe(expected.length);
      expect(found.equals(expected), `the bytes of disk ${disk.key}`).toBe(true); // not toEqual: it would print them
    }

    /** The extents hold all of `written`, and nothing but the granules that it touches. */
    async function expectChanged(disk: SnapshotDisk, written: Extent[]): Promise<void> {
      const changed = await source.changedExtents(disk, signal);
      expect(changed).toEqual(normalizeExtents(changed, disk.sizeBytes));
      const missing = firstUncovered(normalizeExtents(written, disk.sizeBytes), changed);
      const excess = firstUncovered(changed, granulesOf(written, disk.sizeBytes));
      expect({ missing, excess, changed }).toEqual({ missing: undefined, excess: undefined, changed });
    }

    describe('what it lists', () => {
      test('tells the images of a VM, or says that it can tell none', () => expectImages(fixture, vmId));

      test('the VM is listed, by name in order, and described with its disks', async () => {
        const vms = await source.listVMs(signal);
        const names = vms.map((vm) => vm.name);
        expect(names).toEqual([...names].sort());
        const vm = vms.find((candidate) => candidate.name === fixture.vmName);
        expect(vm).toMatchObject({ vmId, state: expect.stringMatching(/^(running|paused)$/) as string });
        const { disks, ...summary } = await source.describeVM(fixture.vmName, signal);
        expect(summary).toEqual(vm);
        for (const { key, sizeBytes } of fixture.disks) {
          const disk = disks.find((candidate) => candidate.key === key);
          expect(disk).toMatchObject({ sizeBytes, tracksChanges: true, skipReason: null });
        }
      });

      test('an unknown VM is VMNotFound', async () => {
        await expect(source.describeVM('no such VM', signal)).rejects.toMatchObject({ code: 'VMNotFound' });
        const request = { snapshotId: randomUUID(), vmId: randomUUID(), quiesce: 'off' as const, disks: [] };
        await expect(source.openSnapshot(request, signal)).rejects.toMatchObject({ code: 'VMNotFound' });
      });
    });

    describe('a point in time', () => {
      test('holds while the guest writes on, on every disk', async () => {
        await fixture.write(first, 0, 100 * KiB, 0x11);
        await fixture.write(second, 0, 100 * KiB, 0x12);
        const snapshot = await open(randomUUID());
        expect(snapshot).toMatchObject({ consistency: 'crash', warnings: [] });
        for (const { key, sizeBytes } of fixture.disks.slice(0, 2)) {
          const disk = diskOf(snapshot, key);
          expect(disk).toMatchObject({ sizeBytes, changedSince: null, dirtyContext: null });
          const before = await read(disk);
          expect(before.subarray(0, 100 * KiB).every((byte) => byte === (key === first ? 0x11 : 0x12))).toBe(true);
          await fixture.write(key, 10 * KiB, 200 * KiB, 0xee);
          await fixture.zero(key, 70 * KiB, 20 * KiB);
          await fixture.write(key, sizeBytes - 512, 512, 0xef);
          await expectSameBytes(disk, before);
        }
      });

      test('is one moment for all disks', async () => {
        let isStopped = false;
        const writing = (async () => {
          for (let round = 1; !isStopped; round++) {
            await fixture.write(first, 0, 512, round % 256);
            await fixture.write(second, 0, 512, round % 256);
          }
        })();
        try {
          const snapshot = await open(randomUUID());
          const [a = 0, b = 0] = [(await read(diskOf(snapshot, first)))[0], (await read(diskOf(snapshot, second)))[0]];
          expect([b, (b + 1) % 256]).toContain(a); // the first disk is at most one round ahead
        } finally {
          isStopped = true;
          await writing;
        }
      });

      test('may cover some of the disks; one that was left out has no base later', async () => {
        const snapshotId = randomUUID();
        const snapshot = await open(snapshotId, { [first]: null });
        expect(snapshot.disks.map(({ key }) => key)).toEqual([first]);
        await source.closeSnapshot(vmId, snapshotId, signal);
        const later = await open(randomUUID(), both(changeIdOf(snapshotId)));
        expect(diskOf(later, first).changedSince).toBe(changeIdOf(snapshotId));
        expect(diskOf(later, second)).toMatchObject({ changedSince: null, dirtyContext: null });
      });
    });

    describe('changed extents', () => {
      test('are none where nothing changed', async () => {
        const snapshot = await open(randomUUID(), both(await makeBase()));
        for (const disk of snapshot.disks) await expectChanged(disk, []);
      });

      test('are just what was written, what became zero included', async () => {
        await fixture.write(first, 0, 512 * KiB, 0x31);
        const baseId = randomUUID();
        const full = await open(baseId);
        const expected = await read(diskOf(full, first));
        await source.closeSnapshot(vmId, baseId, signal);

        await fixture.write(first, 1000 * KiB, 512, 0x32);
        await fixture.zero(first, 128 * KiB, 128 * KiB);
        const snapshot = await open(randomUUID(), both(changeIdOf(baseId)));
        await fixture.write(first, 700 * KiB, 512, 0x33); // after the point: not in it
        const disk = diskOf(snapshot, first);
        expect(disk).toMatchObject({ changedSince: changeIdOf(baseId), dirtyContext: expect.any(String) as string });
        expected.fill(0x32, 1000 * KiB, 1000 * KiB + 512).fill(0, 128 * KiB, 256 * KiB);
        await expectSameBytes(disk, expected);
        await expectChanged(disk, [
          { offset: 1000 * KiB, length: 512 },
          { offset: 128 * KiB, length: 128 * KiB },
        ]);
        await expectChanged(diskOf(snapshot, second), []);
      });

      test('reach the last bytes of a disk whose size is no multiple of 64 KiB', async () => {
        const odd = fixture.disks.find(({ sizeBytes }) => sizeBytes % granularityBytes !== 0);
        if (!odd) throw new Error('the fixture has no such disk');
        const base = await makeBase({ [odd.key]: null });
        await fixture.write(odd.key, odd.sizeBytes - 512, 512, 0x41);
        const disk = diskOf(await open(randomUUID(), { [odd.key]: base }), odd.key);
        await expectChanged(disk, [{ offset: odd.sizeBytes - 512, length: 512 }]);
        expect((await read(disk)).subarray(-512).every((byte) => byte === 0x41)).toBe(true);
      });

      test('of a run that follows a failed one reach back to the old base', async () => {
        const base = await makeBase();
        await fixture.write(first, 0, 4 * KiB, 0x51);
        const failed = randomUUID();
        await open(failed, both(base));
        await fixture.write(first, 256 * KiB, 4 * KiB, 0x52);
        await source.closeSnapshot(vmId, failed, signal);
        await source.dropChangeIds(vmId, [changeIdOf(failed)], signal);
        await fixture.write(first, 512 * KiB, 4 * KiB, 0x53);

        const disk = diskOf(await open(randomUUID(), both(base)), first);
        expect(disk.changedSince).toBe(base);
        const written = [0, 256 * KiB, 512 * KiB].map((offset) => ({ offset, length: 4 * KiB }));
        await expectChanged(disk, written);
        const bytes = await read(disk);
        expect(written.map(({ offset }) => bytes[offset])).toEqual([0x51, 0x52, 0x53]);
      });

      test('of a run that follows a good one start there, also when the older base is dropped', async () => {
        const old = await makeBase();
        await fixture.write(first, 0, 4 * KiB, 0x61);
        const newer = await makeBase(both(old));
        await source.dropChangeIds(vmId, [old], signal);
        await fixture.write(first, 256 * KiB, 4 * KiB, 0x62);
        const disk = diskOf(await open(randomUUID(), both(newer)), first);
        expect(disk.changedSince).toBe(newer);
        await expectChanged(disk, [{ offset: 256 * KiB, length: 4 * KiB }]);
      });

      test('need a base that is still honoured: one that is unknown or dropped opens the disk whole', async () => {
        const dropped = await makeBase();
        await source.dropChangeIds(vmId, [dropped], signal);
        const good = await makeBase();
        for (const lost of [dropped, changeIdOf(randomUUID())]) {
          const snapshotId = randomUUID();
          const snapshot = await open(snapshotId, { [first]: lost, [second]: good });
          expect(diskOf(snapshot, first)).toMatchObject({ changedSince: null, dirtyContext: null });
          expect(diskOf(snapshot, second).changedSince).toBe(good);
          await source.closeSnapshot(vmId, snapshotId, signal);
        }
      });
    });

    describeIdentities(() => ({ fixture, vmId, open, makeBase }));

    describe('what it refuses and what it forgives', () => {
      test('an unknown disk is DiskNotFound, and nothing is left open', async () => {
        await expect(open(randomUUID(), { [first]: null, 'no such disk': null })).rejects.toMatchObject({
          code: 'DiskNotFound',
        });
        await open(randomUUID());
      });

      test('a second snapshot is SourceBusy, and leaves the first as it is', async () => {
        const snapshotId = randomUUID();
        const disk = diskOf(await open(snapshotId), first);
        const before = await read(disk);
        const other = randomUUID();
        for (const id of [other, snapshotId])
          await expect(open(id)).rejects.toMatchObject({ code: 'SourceBusy', details: { snapshotId } });
        await source.closeSnapshot(vmId, other, signal);
        await source.dropChangeIds(vmId, [changeIdOf(other)], signal);
        await fixture.write(first, 0, 64 * KiB, 0x71);
        await expectSameBytes(disk, before);
        await source.closeSnapshot(vmId, snapshotId, signal);
        await open(randomUUID());
      });

      test('closing twice, closing nothing and closing at a VM that is gone all succeed', async () => {
        const snapshotId = randomUUID();
        await open(snapshotId);
        await source.closeSnapshot(vmId, snapshotId, signal);
        await source.closeSnapshot(vmId, snapshotId, signal);
        await source.closeSnapshot(vmId, randomUUID(), signal);
        await source.closeSnapshot(randomUUID(), snapshotId, signal);
      });

      test('lists every change id that it holds for a VM, and none of a VM that it does not know', async () => {
        expect(await source.listChangeIds(vmId, signal)).toEqual([]);
        const [one, other] = [await makeBase(), await makeBase({ [first]: null })];
        expect((await source.listChangeIds(vmId, signal)).sort()).toEqual([one, other].sort());
        await source.dropChangeIds(vmId, [one], signal);
        expect(await source.listChangeIds(vmId, signal)).toEqual([other]);
        await expect(source.listChangeIds(randomUUID(), signal)).rejects.toMatchObject({ code: 'VMNotFound' });
      });

      test('dropping change ids twice, or unknown ones, succeeds and drops the known ones', async () => {
        const base = await makeBase();
        await source.dropChangeIds(vmId, [changeIdOf(randomUUID()), base], signal);
        await source.dropChangeIds(vmId, [base], signal);
        expect(diskOf(await open(randomUUID(), both(base)), first).changedSince).toBeNull();
      });

      test('a cancelled opening throws the reason and leaves nothing open', async () => {
        const snapshotId = randomUUID();
        const reason = new Error('the run was cancelled');
        const request = { snapshotId, vmId, quiesce: 'off' as const, disks: [{ key: first, baseChangeId: null }] };
        await expect(source.openSnapshot(request, AbortSignal.abort(reason))).rejects.toBe(reason);
        await open(randomUUID());
      });
    });
  });
}
