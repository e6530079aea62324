import { run } from '../../src/process/run.js';

/**
 * `qemu-img create`, also of encrypted images. For these QEMU measures how fast this machine derives a key, and gives up where
 * others take its CPU time away: on a busy machine it is asked again.
 */
export async function createTestImage(args: readonly string[]): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const { exitCode, stderr } = await run('qemu-img', ['create', '-q', ...args], { timeoutMs: 30_000 });
    if (exitCode === 0) return;
    if (attempt === 50 || !stderr.includes('accurate CPU usage')) throw new Error(`qemu-img create failed: ${stderr}`);
  }
}
