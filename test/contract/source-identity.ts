import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { changeIdOf, type OpenSnapshot } from '../../src/sources/source.js';
import type { SourceFixture } from './source-fixture.js';

/** What the suite has: the VM, and its ways to open snapshots that are closed after each test. */
export interface SuiteOfSource {
  fixture: SourceFixture;
  vmId: string;
  open: (snapshotId: string, bases?: Record<string, string | null>) => Promise<OpenSnapshot>;
  makeBase: () => Promise<string>;
}

/** A part of the suite for all connectors: by what they tell one image from another. */
export function describeIdentities(suite: () => SuiteOfSource): void {
  describe('what a disk stands on', () => {
    const signal = new AbortController().signal;

    async function identities(): Promise<Record<string, string>> {
      const { source, vmName } = suite().fixture;
      const { disks } = await source.describeVM(vmName, signal);
      return Object.fromEntries(disks.map(({ key, identity }) => [key, identity]));
    }

    test('is the same for a disk that is written to, in its description and in its snapshot', async () => {
      const { fixture, makeBase, open } = suite();
      const before = await identities();
      await fixture.write(fixture.disks[0]?.key ?? '', 0, 512 * 1024, 0x81);
      await makeBase();
      const { disks } = await open(randomUUID());
      expect(disks).toHaveLength(2);
      for (const { key, identity } of disks) expect([key, identity]).toEqual([key, before[key]]);
      expect(new Set(disks.map(({ identity }) => identity)).size).toBe(2);
      expect(await identities()).toEqual(before);
    });

    test('is something else for each of two disks that change places', async () => {
      const { fixture, vmId, makeBase, open } = suite();
      const before = await identities();
      const base = await makeBase();
      await fixture.exchangeDisks();
      try {
        const after = await identities();
        const snapshotId = randomUUID();
        const bases = fixture.disks.slice(0, 2).map(({ key }) => [key, base] as const);
        const { disks } = await open(snapshotId, Object.fromEntries(bases));
        for (const { key, identity } of disks) {
          expect(after[key]).not.toBe(before[key]);
          expect([key, identity]).toEqual([key, after[key]]);
        }
        await fixture.source.closeSnapshot(vmId, snapshotId, signal);
        await fixture.source.dropChangeIds(vmId, [base, changeIdOf(snapshotId)], signal);
      } finally {
        await fixture.exchangeDisks();
      }
      expect(await identities()).toEqual(before);
    });
  });
}
