import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { verifyCopy } from '../../src/nbd/verify-copy.js';
import { checkImage, createImage } from '../../src/qemu/qemu-img.js';
import { findExportProcess, startExport } from '../../src/qemu/qemu-nbd.js';
import { headerOf, parentOf } from '../support/image-files.js';
import { MiB, signal, useWorkbench } from './workbench.js';

/** Ways to a damaged or unreachable image, and to a process that nobody knows of. */
const bench = useWorkbench();

describe('an export', () => {
  const newImage = (name: string) => createImage({ file: bench.path(name), sizeBytes: MiB, signal });

  test('of a file that is exported already fails and names it', async () => {
    await newImage('twice.qcow2');
    await bench.serve('twice.qcow2');
    const second = bench.serve('twice.qcow2');
    await expect(second).rejects.toMatchObject({ code: 'ExportFailed', details: { file: bench.path('twice.qcow2') } });
  });

  test('whose readiness cannot be shown is stopped again', async () => {
    await newImage('aborted.qcow2');
    const controller = new AbortController();
    const exported = {
      name: 'aborted.qcow2',
      files: [bench.path('aborted.qcow2')] as const,
      sizeBytes: MiB,
      exportName: 'x',
      pidFile: bench.path('aborted.pid'),
      connections: 2,
    };
    const starting = startExport({ ...exported, signal: controller.signal });
    const reason = new Error('cancelled while it starts');
    controller.abort(reason);
    await expect(starting).rejects.toBe(reason);
    await bench.serve('aborted.qcow2'); // the file is not held
  });

  test('is found by its pid file and name, also before the pid file is written, and no other is', async () => {
    await newImage('found.qcow2');
    const { identity } = await bench.serve('found.qcow2');
    const pidFile = bench.path('found.qcow2.pid');
    await rm(pidFile);
    expect(await findExportProcess(pidFile, 'found.qcow2')).toEqual(identity);
    expect(await findExportProcess(pidFile, 'found')).toBeUndefined();
    expect(await findExportProcess(bench.path('other.pid'), 'found.qcow2')).toBeUndefined();
  });

  test('that fails after it has forked is stopped again', async () => {
    await newImage('forked.qcow2');
    const script = [
      '#!/bin/sh',
      'for argument; do shift; [ "$argument" = --fork ] || set -- "$@" "$argument"; done',
      'PATH="$REAL_PATH" qemu-nbd "$@" >/dev/null 2>&1 &',
      'while ! [ -s "$PID_FILE" ]; do :; done',
      'rm "$PID_FILE"; exit 1',
    ];
    Object.assign(process.env, { PID_FILE: bench.path('forked.qcow2.pid') });
    await insteadOfQemuNBD(script, async () => {
      await expect(bench.serve('forked.qcow2')).rejects.toMatchObject({ code: 'ExportFailed' });
    });
    await bench.serve('forked.qcow2'); // the file is not held
  });

  test('may have any name', async () => {
    await newImage('named.qcow2');
    const exportName = `job/ä "b" %2F, c=d`;
    const { uri } = await bench.serve('named.qcow2', exportName);
    await verifyCopy({ targetUri: uri, sourceSizeBytes: MiB, extents: null, signal });
  });

  test('works where the kernel has no io_uring', async () => {
    await newImage('threads.qcow2');
    // As QEMU on such a kernel: says so, and starts only another way.
    const refuse = `case "$*" in *io_uring*) echo 'Unable to use io_uring: not permitted' >&2; exit 1;; esac`;
    await insteadOfQemuNBD(['#!/bin/sh', refuse, 'PATH="$REAL_PATH" exec qemu-nbd "$@"'], async () => {
      const { identity } = await bench.serve('threads.qcow2');
      expect(await readFile(`/proc/${identity.pid}/cmdline`, 'latin1')).toContain('--aio=threads');
    });
  });
});

/** Puts a script where qemu-nbd is looked for; it finds the real one with REAL_PATH. */
async function insteadOfQemuNBD(script: string[], work: () => Promise<void>): Promise<void> {
  const realPath = process.env.PATH;
  await writeFile(bench.path('qemu-nbd'), `${script.join('\n')}\n`, { mode: 0o755 });
  Object.assign(process.env, { REAL_PATH: realPath, PATH: `${bench.directory}:${realPath}` });
  try {
    await work();
  } finally {
    process.env.PATH = realPath;
  }
}

describe('an image', () => {
  test('is never overwritten, also when two are made at once', async () => {
    const request = { file: bench.path('once.qcow2'), sizeBytes: MiB, signal };
    const outcomes = await Promise.allSettled([createImage(request), createImage({ ...request, sizeBytes: 2 * MiB })]);
    const failures = outcomes.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
    expect(failures).toEqual([expect.objectContaining({ code: 'AlreadyExists' })]);
    const before = await readFile(bench.path('once.qcow2'));
    await expect(createImage(request)).rejects.toMatchObject({ code: 'AlreadyExists' });
    expect((await readFile(bench.path('once.qcow2'))).equals(before)).toBe(true);
  });

  test('names its parent without a directory, so that a moved chain stays whole', async () => {
    const parent = await parentOf(bench.path(await bench.makeFull('moved', randomBytes(MiB))));
    await createImage({ file: bench.path('child.qcow2'), sizeBytes: MiB, parent, signal });
    expect(await headerOf(bench.path('child.qcow2'))).toEqual({
      sizeBytes: MiB,
      backingName: 'moved.qcow2',
      backingFormat: 'qcow2',
      hasDataFile: false,
    });
    const absolute = { ...parent, name: bench.path('moved.qcow2') };
    const other = createImage({ file: bench.path('other.qcow2'), sizeBytes: MiB, parent: absolute, signal });
    await expect(other).rejects.toThrow(TypeError);
  });

  test('is not made on a parent that a stale process writes to, and its export names that parent', async () => {
    const parentName = await bench.makeFull('held', randomBytes(MiB));
    const parent = await parentOf(bench.path(parentName));
    await createImage({ file: bench.path('on-held.qcow2'), sizeBytes: MiB, parent, signal });
    await bench.serve(parentName);
    const held = { code: 'ExportFailed', details: { file: expect.stringContaining('held.qcow2') as string } };
    await expect(createImage({ file: bench.path('new.qcow2'), sizeBytes: MiB, parent, signal })).rejects.toMatchObject(
      held,
    );
    await expect(open(bench.path('new.qcow2'))).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(bench.serve('on-held.qcow2')).rejects.toMatchObject(held);
  });

  test('without its parent is not made, and not exported', async () => {
    const parent = await parentOf(bench.path(await bench.makeFull('lost', randomBytes(MiB))));
    await createImage({ file: bench.path('orphan.qcow2'), sizeBytes: MiB, parent, signal });
    await rename(bench.path('lost.qcow2'), bench.path('lost.elsewhere'));
    await expect(bench.serve('orphan.qcow2')).rejects.toMatchObject({ code: 'ExportFailed' });
    const again = createImage({ file: bench.path('orphan2.qcow2'), sizeBytes: MiB, parent, signal });
    await expect(again).rejects.toMatchObject({ code: 'ParentUnusable' });
  });

  test('that is corrupt is ImageDamaged', async () => {
    const file = bench.path(await bench.makeFull('corrupt', randomBytes(MiB)));
    const handle = await open(file, 'r+');
    await handle.write(randomBytes(4096), 0, 4096, 65_536); // the reference count table
    await handle.close();
    await expect(checkImage(file, signal)).rejects.toMatchObject({ code: 'ImageDamaged' });
  });
});
