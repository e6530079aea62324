import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { exportSocket, exportUri } from '../../src/nbd/export-socket.js';
import { copyConnections } from '../../src/nbd/nbdcopy.js';
import { stopProcess, type ProcessIdentity } from '../../src/process/identity.js';
import { exportStopTimeouts, startExport } from '../../src/qemu/qemu-nbd.js';
import { headerOf, imageFiles } from '../support/image-files.js';
import { serveDirectory, writeSparse, type NBDSource } from '../support/nbd-source.js';
import { transfer } from './transfer.js';

export const MiB = 1024 * 1024;
export const signal = new AbortController().signal;

export interface Workbench {
  directory: string;
  source: NBDSource;
  /** Every read takes 100 ms. */
  slowSource: NBDSource;
  path: (name: string) => string;
  serve: (name: string, exportName?: string) => Promise<{ identity: ProcessIdentity; uri: string }>;
  /** Returns the URI at which the disk can be read. */
  makeDisk: (name: string, bytes: Buffer) => Promise<string>;
  /** A full of `bytes` as `NAME.qcow2`; returns that name. */
  makeFull: (name: string, bytes: Buffer) => Promise<string>;
}

/** A directory, sources that serve its files, and exports of images in it that are stopped after each test. */
export function useWorkbench(): Workbench {
  let running: ProcessIdentity[] = [];
  const bench: Workbench = {
    directory: '',
    source: undefined as unknown as NBDSource,
    slowSource: undefined as unknown as NBDSource,

    path: (name) => join(bench.directory, name),

    async serve(name: string, exportName = name): Promise<{ identity: ProcessIdentity; uri: string }> {
      const file = bench.path(name);
      const pidFile = `${file}.pid`;
      const [files, sizeBytes] = [await imageFiles(file), (await headerOf(file))?.sizeBytes ?? 0];
      const identity = await startExport({
        name: file,
        files,
        sizeBytes,
        exportName,
        pidFile,
        connections: copyConnections,
        signal,
      });
      running.push(identity);
      return { identity, uri: exportUri(exportSocket(pidFile), exportName) };
    },

    async makeDisk(name, bytes) {
      await writeSparse(bench.path(name), bytes);
      return bench.source.uriOf(name);
    },

    async makeFull(name, bytes) {
      const sourceUri = await bench.makeDisk(`${name}.disk`, bytes);
      const file = `${name}.qcow2`;
      const { directory } = bench;
      await transfer({ directory, name: file, sourceUri, sizeBytes: bytes.length, extents: null });
      return file;
    },
  };

  beforeAll(async () => {
    bench.directory = await mkdtemp(join(tmpdir(), 'backupvm-traps-'));
    bench.source = await serveDirectory(bench.directory);
    bench.slowSource = await serveDirectory(bench.directory, ['--filter=delay', 'rdelay=100ms']);
  });

  afterEach(async () => {
    for (const identity of running) await stopProcess(identity, exportStopTimeouts);
    running = [];
  });

  afterAll(async () => {
    await bench.source.stop();
    await bench.slowSource.stop();
    await rm(bench.directory, { recursive: true });
  });

  return bench;
}
