import { randomBytes } from 'node:crypto';
import { symlink, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import type { Extent } from '../../src/domain/extents.js';
import { copyExtents, copyFull, type CopyRequest } from '../../src/nbd/nbdcopy.js';
import { verifyCopy } from '../../src/nbd/verify-copy.js';
import { isAlive, type ProcessIdentity } from '../../src/process/identity.js';
import { runOrThrow } from '../../src/process/run.js';
import { createImage } from '../../src/qemu/qemu-img.js';
import { parentOf } from '../support/image-files.js';
import { serveDirectory } from '../support/nbd-source.js';
import { restore, transfer } from './transfer.js';
import { MiB, signal, useWorkbench } from './workbench.js';

/** Ways to a wrong copy that the tools report as success, or never report. */
const bench = useWorkbench();

const silently = (request: Omit<CopyRequest, 'onProgress' | 'signal'>): CopyRequest => {
  return { ...request, onProgress: () => undefined, signal };
};

describe('the copy', () => {
  test('is on disk when it returns: killing qemu-nbd right after it loses nothing', async () => {
    const bytes = randomBytes(2 * MiB);
    await createImage({ file: bench.path('flush.qcow2'), sizeBytes: bytes.length, signal });
    const { identity, uri } = await bench.serve('flush.qcow2');
    await copyFull(silently({ sourceUri: await bench.makeDisk('flush.disk', bytes), targetUri: uri }));
    process.kill(identity.pid, 'SIGKILL');
    expect((await restore(bench.directory, 'flush.qcow2')).equals(bytes)).toBe(true);
  });

  test.each(['target', 'source'])('fails when its %s is killed half-way', async (victim) => {
    const name = `killed-${victim}.qcow2`;
    await bench.makeDisk('killed.disk', randomBytes(24 * MiB));
    await createImage({ file: bench.path(name), sizeBytes: 24 * MiB, signal });
    const { identity, uri } = await bench.serve(name);
    const dying = await serveDirectory(bench.directory, ['--filter=delay', 'rdelay=100ms']);
    const fractions: number[] = [];
    const onProgress = (fraction: number) => {
      if (fractions.push(fraction) > 1) return;
      if (victim === 'target') process.kill(identity.pid, 'SIGKILL');
      else void dying.stop();
    };
    const copying = copyFull({ sourceUri: dying.uriOf('killed.disk'), targetUri: uri, onProgress, signal });
    await expect(copying).rejects.toMatchObject({ code: 'CopyFailed' });
    expect(fractions.at(-1)).toBeLessThan(1);
    await dying.stop();
  });

  test('that is cancelled throws the reason, and nothing of it runs on', async () => {
    await bench.makeDisk('cancelled.disk', randomBytes(4 * MiB));
    await createImage({ file: bench.path('cancelled.qcow2'), sizeBytes: 4 * MiB, signal });
    const { uri } = await bench.serve('cancelled.qcow2');
    const controller = new AbortController();
    const reason = new Error('the run was cancelled');
    const started: ProcessIdentity[] = [];
    const copying = copyExtents({
      sourceUri: bench.slowSource.uriOf('cancelled.disk'),
      targetUri: uri,
      extents: [{ offset: 0, length: 4 * MiB }],
      directory: bench.path('cancelled'),
      onStart: async (identity) => void started.push(identity),
      onProgress: () => controller.abort(reason),
      signal: controller.signal,
    });
    await expect(copying).rejects.toBe(reason);
    expect(started).toHaveLength(1);
    for (const identity of started) expect(await isAlive(identity)).toBe(false);
  });

  test('of no extents at all starts nothing, and is complete', async () => {
    const fractions: number[] = [];
    const unreachable = silently({ sourceUri: 'nbd+unix:///?socket=/none', targetUri: 'nbd+unix:///?socket=/none' });
    const onProgress = (fraction: number) => void fractions.push(fraction);
    await copyExtents({ ...unreachable, extents: [], directory: '/none', onProgress });
    expect(fractions).toEqual([1]);
  });

  test('without nbdcopy on PATH names the package to install', async () => {
    const realPath = process.env.PATH;
    await symlink('/usr/bin/setpriv', bench.path('setpriv')); // this one is part of every Debian
    process.env.PATH = bench.directory;
    try {
      const copying = copyFull(
        silently({ sourceUri: 'nbd+unix:///?socket=/none', targetUri: 'nbd+unix:///?socket=/none' }),
      );
      await expect(copying).rejects.toMatchObject({
        code: 'ToolMissing',
        message: expect.stringContaining('libnbd-bin') as string,
      });
    } finally {
      process.env.PATH = realPath;
    }
  });

  test('tells its progress, rising to 1', async () => {
    await bench.makeDisk('progress.disk', randomBytes(8 * MiB));
    const name = 'progress.qcow2';
    const sourceUri = bench.slowSource.uriOf('progress.disk');
    const { fractions } = await transfer({
      directory: bench.directory,
      name,
      sourceUri,
      sizeBytes: 8 * MiB,
      extents: null,
    });
    expect(fractions.length).toBeGreaterThan(2);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
    expect(fractions.at(-1)).toBe(1);
  });

  test('leaves a connection for a look at the export', async () => {
    await bench.makeDisk('looked-at.disk', randomBytes(8 * MiB));
    await createImage({ file: bench.path('looked-at.qcow2'), sizeBytes: 8 * MiB, signal });
    const { uri } = await bench.serve('looked-at.qcow2');
    const copying = copyFull(silently({ sourceUri: bench.slowSource.uriOf('looked-at.disk'), targetUri: uri }));
    const look = { targetUri: uri, sourceSizeBytes: 8 * MiB, extents: null, signal };
    await Promise.all([copying, verifyCopy(look), verifyCopy(look)]);
  });
});

describe('the look at the result', () => {
  const bytes = randomBytes(MiB);
  const zeroed: Extent[] = [{ offset: 128 * 1024, length: 256 * 1024 }];

  /** An overlay of which `copy` copied something. */
  async function overlay(name: string, copy: (sourceUri: string, uri: string) => Promise<unknown>, sizeBytes = MiB) {
    const parentName = await bench.makeFull(`${name}-parent`, bytes);
    const changed = Buffer.from(bytes).fill(0, 128 * 1024, 384 * 1024);
    await createImage({ file: bench.path(name), sizeBytes, parent: await parentOf(bench.path(parentName)), signal });
    const { uri } = await bench.serve(name);
    await copy(await bench.makeDisk(`${name}.disk`, changed), uri);
    return verifyCopy({ targetUri: uri, sourceSizeBytes: MiB, extents: zeroed, signal });
  }

  const nbdcopy = (...args: string[]) => runOrThrow('nbdcopy', args, { timeoutMs: 30_000 });

  test('finds changed extents that were not copied', async () => {
    const nothing = overlay('nothing.qcow2', () => Promise.resolve());
    await expect(nothing).rejects.toMatchObject({ code: 'CopyIncomplete', details: { offset: 128 * 1024 } });
  });

  test('finds zeros that were left out, because the target was said to be zero', async () => {
    const copied = overlay('holes.qcow2', (from, to) => nbdcopy('--destination-is-zero', '--flush', from, to));
    await expect(copied).rejects.toMatchObject({ code: 'CopyIncomplete' });
  });

  test('finds zeros that were left out, because nbdcopy looked for zeros in the data', async () => {
    await writeFile(bench.path('sparse.extents'), zeroed.map(({ offset, length }) => `${offset} ${length}\n`).join(''));
    const copied = overlay('sparse.qcow2', (from, to) => {
      const nbdkit = [
        'nbdkit',
        '-r',
        '--filter=extentlist',
        'nbd',
        `uri=${from}`,
        `extentlist=${bench.path('sparse.extents')}`,
      ];
      return nbdcopy('--destination-is-zero', '--flush', '--', '[', ...nbdkit, ']', to);
    });
    await expect(copied).rejects.toMatchObject({ code: 'CopyIncomplete' });
  });

  test('finds an image of another size than the source', async () => {
    const grown = overlay('size.qcow2', () => Promise.resolve(), MiB + 512);
    await expect(grown).rejects.toThrow(/^Expected nbd\+unix:.* to have 1048576 bytes, found 1049088$/);
  });
});
