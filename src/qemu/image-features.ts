import { resolve } from 'node:path';
import { z } from 'zod';
import { parseOutput, run } from '../process/run.js';

/** Reads headers only; more than this means that the storage hangs. */
const headerTimeoutMs = 60_000;

const answer = z.object({
  filename: z.string(),
  encrypted: z.boolean().default(false),
  snapshots: z.array(z.object({ name: z.string() })).default([]),
  'format-specific': z.object({ data: z.object({ 'data-file': z.string().optional() }) }).optional(),
});

/** What a QCOW2 file holds or needs that another file in its place would not. */
export interface ImageFeatures {
  isEncrypted: boolean;
  snapshots: string[];
  dataFile: string | null;
}

/** Reads a QCOW2 file's header, also while it is in use. @returns undefined for a file that QEMU cannot read */
export async function imageFeatures(file: string, signal: AbortSignal): Promise<ImageFeatures | undefined> {
  const found = await info(file, [], signal);
  if (found === undefined) return undefined;
  const { encrypted, snapshots, ...rest } = answer.parse(found);
  return {
    isEncrypted: encrypted,
    snapshots: snapshots.map(({ name }) => name),
    dataFile: rest['format-specific']?.data['data-file'] ?? null,
  };
}

/** The files that a QCOW2 file reads, itself included. None for a file that QEMU cannot read. */
export async function backingChainOf(file: string, signal: AbortSignal | undefined): Promise<string[]> {
  const found = await info(file, ['--backing-chain'], signal);
  if (found === undefined) return [];
  return z
    .array(answer)
    .parse(found)
    .map(({ filename }) => filename);
}

async function info(file: string, options: string[], signal: AbortSignal | undefined): Promise<unknown> {
  // The format is stated, never guessed: a guest decides what stands at the beginning of a raw image.
  const args = ['info', '-U', '-f', 'qcow2', '--output=json', ...options, resolve(file)];
  const { exitCode, stdout } = await run('qemu-img', args, { ...(signal && { signal }), timeoutMs: headerTimeoutMs });
  return exitCode === 0 ? parseOutput('qemu-img', args, stdout) : undefined;
}
