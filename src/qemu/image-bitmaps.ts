import { z } from 'zod';
import { run } from '../process/run.js';

const info = z.object({
  'format-specific': z.object({ data: z.object({ bitmaps: z.array(z.object({ name: z.string() })).optional() }) }),
});

/**
 * The dirty bitmaps that a QCOW2 file names in its header, also while QEMU has it open. One that QEMU made since it opened the file
 * may not be there yet. None where the file cannot be read as QCOW2.
 */
export async function imageBitmaps(file: string, signal?: AbortSignal): Promise<string[]> {
  // Only the header is read; a minute is for slow network storage.
  const args = ['info', '-U', '-f', 'qcow2', '--output=json', '--', file];
  const { exitCode, stdout } = await run('qemu-img', args, { signal, timeoutMs: 60_000 });
  if (exitCode !== 0) return [];
  return (info.parse(JSON.parse(stdout))['format-specific'].data.bitmaps ?? []).map(({ name }) => name);
}
