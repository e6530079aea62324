import { run } from '../process/run.js';

/** One call of the file system that QEMU itself uses; a minute is for one that is slow. */
const statTimeoutMs = 60_000;

/**
 * An image's name with what tells its file from another one under that name: the inode, and the moment in which it was made. Both
 * stay when the file is renamed or written to. The name alone for a device, and for what this host cannot see.
 */
export async function withFileIdentity(name: string, path: string, signal?: AbortSignal): Promise<string> {
  // A program of its own: a file system that hangs holds that, and no thread of ours. %W is 0 where there is no such time.
  const args = ['-L', '-c', '%F|inode %i, created %.9W', '--', path];
  const { exitCode, stdout } = await run('stat', args, { signal, timeoutMs: statTimeoutMs });
  const facts = /^regular (?:empty )?file\|(.+)$/m.exec(stdout)?.[1]; // inodes below /dev are others after each start of the host
  return exitCode === 0 && facts !== undefined ? `${name} (${facts})` : name;
}
