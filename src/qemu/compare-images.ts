import { BackupError } from '../domain/errors.js';
import type { ProcessIdentity } from '../process/identity.js';
import { runWithProgress } from '../process/run-with-progress.js';
import { imageReference, type ImageFiles } from './image-reference.js';
import { progressOf, throwIfLocked } from './qemu-img.js';

export interface CompareImagesRequest {
  /** Of an NBD export. */
  sourceUri: string;
  /** A QCOW2 file and its chain. */
  files: ImageFiles;
  signal: AbortSignal;
  /** Hears who reads. */
  onStart: (identity: ProcessIdentity) => Promise<void>;
  /** Hears how far it is, from 0 to 1. */
  onProgress: (fraction: number) => void;
}

/**
 * Compares a file with the disk that it was copied from, every byte. It is killed when this process dies. May be repeated.
 * @throws BackupError ContentDiffers; ExportFailed when something still writes to the file; ToolFailed; or `signal.reason`
 */
export async function compareWithSource(request: CompareImagesRequest): Promise<void> {
  const { sourceUri, files, signal, onStart, onProgress } = request;
  const [file] = files;
  let difference = '';
  const onLine = (line: string) => {
    const fraction = progressOf(line);
    if (fraction !== undefined) onProgress(fraction);
    difference ||= /Content mismatch at offset \d+/.exec(line)?.[0] ?? '';
  };
  const images = ['-f', 'raw', sourceUri, imageReference(files)];
  const outcome = await runWithProgress('qemu-img', ['compare', '-p', ...images], {
    ...{ signal, onStart, onLine },
    reportsOnStdout: true,
  });
  if (outcome.exitCode === 0) return;
  if (outcome.exitCode === 1) {
    throw new BackupError(
      'ContentDiffers',
      `Expected ${file} to hold what its source holds, found them different: ${difference || 'qemu-img compare says no more'}`,
      { details: { file } },
    );
  }
  throwIfLocked(file, outcome);
  throw new BackupError('ToolFailed', `qemu-img compare of ${file} failed: ${outcome.stderr.trim().slice(0, 2000)}`);
}
