import { closeSync, openSync, readSync } from 'node:fs';
import { BackupError } from '../domain/errors.js';
import type { Extent } from '../domain/extents.js';
import type { ImageFiles } from '../qemu/image-reference.js';
import { mapImage, virtualSizeBytes, type MappedRun } from '../qemu/map-image.js';
import { blockBytes } from './table.js';

/** As much as one call of `qemu-img map` tells of: a quarter of a million runs at the most. */
const windowBytes = 16 * 1024 ** 3;
/** As much as is read and hashed at once. */
const spanBytes = 16 * blockBytes;

export interface DiskReader {
  sizeBytes: number;
  /**
   * The parts of the virtual disk that hold a run that `accept` lets through: whole blocks, in order, none longer than 4 MiB.
   * `read` fills a buffer, which the next one overwrites.
   */
  spans: (accept: (run: MappedRun) => boolean) => Generator<Extent & { read: () => Buffer }>;
  close: () => void;
}

/** Whether a run may hold other bytes than zeros. */
export function hasData({ data, zero }: MappedRun): boolean {
  return data && !zero;
}

/** Opens a virtual disk through its chain, for reading. For a process of our own: every call waits. */
export function openDisk(files: ImageFiles, format: 'qcow2' | 'raw'): DiskReader {
  const sizeBytes = virtualSizeBytes(files, format);
  const descriptors = files.map((path) => openSync(path, 'r'));
  const buffer = Buffer.alloc(spanBytes);
  return {
    sizeBytes,
    *spans(accept) {
      for (let offset = 0; offset < sizeBytes; offset += windowBytes) {
        const length = Math.min(windowBytes, sizeBytes - offset);
        const runs = mapImage({ files, format, offset, length });
        const dataRuns = takeInOrder(runs.filter(hasData));
        for (const span of splitIntoSpans(runs.filter(accept), sizeBytes)) {
          yield { ...span, read: () => read(span, dataRuns(span)) };
        }
      }
    },
    close: () => descriptors.forEach(closeSync),
  };

  function read(span: Extent, runs: readonly MappedRun[]): Buffer {
    const bytes = buffer.subarray(0, span.length);
    let filled = 0;
    for (const run of runs) {
      const start = Math.max(run.start, span.offset);
      const end = Math.min(run.start + run.length, span.offset + span.length);
      bytes.fill(0, filled, start - span.offset);
      readFully(run, start, bytes.subarray(start - span.offset, end - span.offset));
      filled = end - span.offset;
    }
    bytes.fill(0, filled);
    return bytes;
  }

  function readFully({ start, depth, offset }: MappedRun, from: number, target: Buffer): void {
    const descriptor = descriptors[depth];
    if (descriptor === undefined || offset === undefined) {
      throw new BackupError(
        'ImageDamaged',
        `Expected data of ${files[0]} at ${from} as they read, neither compressed nor encrypted, found them in no such way`,
      );
    }
    let done = 0;
    while (done < target.length) {
      const count = readSync(descriptor, target, done, target.length - done, offset + (from - start) + done);
      if (count === 0) break;
      done += count;
    }
    target.fill(0, done); // QEMU reads zeros past the end of a file, too
  }
}

/** The runs that reach into each of several spans, asked for in order. */
function takeInOrder(runs: readonly MappedRun[]): (span: Extent) => MappedRun[] {
  let first = 0;
  return ({ offset, length }) => {
    const isBefore = (run: MappedRun | undefined) => run !== undefined && run.start + run.length <= offset;
    while (isBefore(runs[first])) first += 1;
    const found: MappedRun[] = [];
    for (let index = first; ; index += 1) {
      const run = runs[index];
      if (!run || run.start >= offset + length) return found;
      found.push(run);
    }
  };
}

/** The whole blocks that runs reach into, neighbours together. */
function* splitIntoSpans(runs: readonly MappedRun[], sizeBytes: number): Generator<Extent> {
  let current: { start: number; end: number } | undefined;
  for (const run of [...runs, undefined]) {
    const start = run && Math.floor(run.start / blockBytes) * blockBytes;
    const end = run && Math.min(Math.ceil((run.start + run.length) / blockBytes) * blockBytes, sizeBytes);
    if (current && start !== undefined && end !== undefined && start <= current.end) {
      current.end = Math.max(current.end, end);
      continue;
    }
    if (current) {
      for (let offset = current.start; offset < current.end; offset += spanBytes) {
        yield { offset, length: Math.min(spanBytes, current.end - offset) };
      }
    }
    current = start === undefined || end === undefined ? undefined : { start, end };
  }
}
