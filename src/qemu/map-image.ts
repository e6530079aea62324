import { runSync } from '../process/run-sync.js';
import { imageReference, type ImageFiles } from './image-reference.js';

/** Reads metadata only; more than this means that the storage hangs. */
const timeoutMs = 600_000;

export interface MapRequest {
  files: ImageFiles;
  format: 'qcow2' | 'raw';
  /** The part of the virtual disk to map, so that a very fragmented one does not fill the memory. */
  offset: number;
  length: number;
}

/** One run of a virtual disk, as `qemu-img map` tells it. All sizes in bytes. */
export interface MappedRun {
  start: number;
  length: number;
  /** Which file of the chain decides it: 0 is the image itself. */
  depth: number;
  /** Whether that file says anything of it, be it only that it is zero. */
  present: boolean;
  /** Whether it reads as zeros without a look at the data. */
  zero: boolean;
  data: boolean;
  /** Where the data stand in that file; none where they are not stored as they read. */
  offset?: number;
}

/** The runs of a part of a virtual disk, in order, without gaps. Waits: for a process of ours. @throws BackupError ToolFailed */
export function mapImage({ files, format, offset, length }: MapRequest): MappedRun[] {
  const part = [`--start-offset=${offset}`, `--max-length=${length}`];
  const args = ['map', '--output=json', ...part, imageReference(files, format)];
  return JSON.parse(runSync('qemu-img', args, { timeoutMs })) as MappedRun[];
}

/** The size of a virtual disk. Waits: for a process of ours. @throws BackupError ToolFailed */
export function virtualSizeBytes([file]: ImageFiles, format: 'qcow2' | 'raw'): number {
  const answer = runSync('qemu-img', ['info', '--output=json', imageReference([file], format)], { timeoutMs });
  return (JSON.parse(answer) as { 'virtual-size': number })['virtual-size'];
}
