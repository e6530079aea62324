import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Extent } from '../../src/domain/extents.js';
import { exportSocket, exportUri } from '../../src/nbd/export-socket.js';
import { copyConnections, copyExtents, copyFull } from '../../src/nbd/nbdcopy.js';
import { verifyCopy } from '../../src/nbd/verify-copy.js';
import { stopProcess } from '../../src/process/identity.js';
import { runOrThrow } from '../../src/process/run.js';
import { createImage } from '../../src/qemu/qemu-img.js';
import { exportStopTimeouts, startExport } from '../../src/qemu/qemu-nbd.js';
import { imageFiles, parentOf } from '../support/image-files.js';

const signal = new AbortController().signal;

export interface TransferRequest {
  directory: string;
  name: string;
  parentName?: string;
  sourceUri: string;
  sizeBytes: number;
  /** Null for a full. */
  extents: Extent[] | null;
}

/** The recipe as a backup runs it: create, export, copy, verify, stop. */
export async function transfer(request: TransferRequest): Promise<{ writtenBytes: number; fractions: number[] }> {
  const { directory, name, parentName, sourceUri, sizeBytes, extents } = request;
  const file = join(directory, name);
  const parent = parentName === undefined ? {} : { parent: await parentOf(join(directory, parentName)) };
  await createImage({ file, sizeBytes, signal, ...parent });
  const exported = {
    name,
    files: await imageFiles(file),
    sizeBytes,
    exportName: `job/${name}`,
    pidFile: `${file}.pid`,
    connections: copyConnections,
    signal,
  };
  const identity = await startExport(exported);
  const targetUri = exportUri(exportSocket(exported.pidFile), exported.exportName);
  const fractions: number[] = [];
  try {
    const copy = {
      sourceUri,
      targetUri,
      onProgress: (fraction: number) => void fractions.push(fraction),
      signal,
    };
    await (extents ? copyExtents({ ...copy, extents, directory: `${file}.copy` }) : copyFull(copy));
    return { ...(await verifyCopy({ targetUri, sourceSizeBytes: sizeBytes, extents, signal })), fractions };
  } finally {
    await stopProcess(identity, exportStopTimeouts);
  }
}

/** What somebody gets who restores with nothing but `qemu-img`. */
export async function restore(directory: string, name: string): Promise<Buffer> {
  const raw = join(directory, `${name}.raw`);
  await runOrThrow('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', join(directory, name), raw], {
    timeoutMs: 60_000,
  });
  const bytes = await readFile(raw);
  await rm(raw);
  return bytes;
}
