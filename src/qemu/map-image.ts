import { runSync } from '../process/run-sync.js';

/** Reads metadata only; more than this means that the storage hangs. */
const timeoutMs = 600_000;

export interface MapRequest {
  file: string;
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
export function mapImage({ file, format, offset, length }: MapRequest): MappedRun[] {
  const part = [`--start-offset=${offset}`, `--max-length=${length}`];
  const args = ['map', '--output=json', '-f', format, ...part, file];
  return JSON.parse(runSync('qemu-img', args, { timeoutMs })) as MappedRun[];
}

/** The files that an image reads from, by depth, and its virtual size. Waits: for a process of ours. @throws BackupError ToolFailed */
export function openChain(file: string, format: 'qcow2' | 'raw'): { files: string[]; sizeBytes: number } {
  const args = ['info', '--backing-chain', '--output=json', '-f', format, file];
  const chain = JSON.parse(runSync('qemu-img', args, { timeoutMs })) as { filename: string; 'virtual-size': number }[];
  return { files: chain.map(({ filename }) => filename), sizeBytes: chain[0]?.['virtual-size'] ?? 0 };
}
