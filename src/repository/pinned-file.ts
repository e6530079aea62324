import { constants } from 'node:fs';
import fs from 'node:fs/promises';
import { callTimeoutMs, within } from './file-system.js';

/** A file that is open for reading: the same one, whatever becomes of its name or of its folder. */
export interface PinnedFile {
  /** Where other processes of ours find this very file, as long as it is pinned. */
  path: string;
  /** What tells whether somebody has touched it since. */
  stamp: () => Promise<string>;
  isPlainFile: () => Promise<boolean>;
  /** Where it lies, without links. */
  place: () => Promise<string>;
  readHead: (length: number) => Promise<Buffer>;
  unpin: () => Promise<void>;
}

/** Opens a file, never through a link as the last part of its path. @throws NodeJS.ErrnoException ENOENT, ELOOP */
export async function pinFile(path: string): Promise<PinnedFile> {
  const limited = <T>(call: Promise<T>) => within(callTimeoutMs, path, call);
  // O_NONBLOCK: a FIFO that somebody put there must not hold us.
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const file = await limited(fs.open(path, flags));
  const pinnedPath = `/proc/${process.pid}/fd/${file.fd}`;
  return {
    path: pinnedPath,
    async stamp() {
      const { dev, ino, size, mtimeNs, ctimeNs } = await limited(file.stat({ bigint: true }));
      return [dev, ino, size, mtimeNs, ctimeNs].join(' '); // the change time cannot be set back by whoever writes
    },
    isPlainFile: async () => (await limited(file.stat())).isFile(),
    place: () => limited(fs.readlink(pinnedPath)),
    async readHead(length) {
      const { buffer, bytesRead } = await limited(file.read(Buffer.alloc(length), 0, length, 0));
      return buffer.subarray(0, bytesRead);
    },
    unpin: () => limited(file.close()),
  };
}
