import { execa } from 'execa';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from './until.js';

/** A real file system of a given size, on a loop device: it fills, goes read-only and is unmounted as any other. Needs root. */
export interface SmallFileSystem {
  path: string;
  unmount: () => Promise<void>;
  mount: () => Promise<void>;
  /** Unmounts also while it is in use: whoever has a file of it open keeps that, and nobody finds a path of it any more. */
  detach: () => Promise<void>;
  /** `abort`: as the kernel does after an error of the disk, whoever writes; only a new mount ends that. */
  remount: (mode: 'ro' | 'rw' | 'abort') => Promise<void>;
  /** Leaves only so much free. */
  fill: (freeBytes: number) => Promise<void>;
  /** Leaves nothing free. */
  fillUp: () => Promise<void>;
  /** Undoes `fill` and `fillUp`. */
  empty: () => Promise<void>;
  /** As a server that is gone: whoever writes hangs, and cannot be killed, until `thaw`. */
  freeze: () => Promise<void>;
  thaw: () => Promise<void>;
  remove: () => Promise<void>;
}

export async function makeSmallFileSystem(
  directory: string,
  name: string,
  sizeBytes: number,
): Promise<SmallFileSystem> {
  const image = join(directory, `${name}.ext4`);
  const path = join(directory, name);
  await mkdir(path);
  await execa('truncate', ['-s', String(sizeBytes), image]);
  await execa('mkfs.ext4', ['-q', '-m', '0', image]);
  const mount = async () => void (await execa('mount', ['-o', 'loop', image, path]));
  // A look of the product's may be under way; a path that is not mounted is success.
  const unmount = async () =>
    void (await until('nobody to use the file system', async () => {
      const { stderr } = await execa('umount', [path], { reject: false });
      return !stderr.includes('busy');
    }));
  await mount();
  return {
    path,
    mount,
    unmount,
    detach: async () => void (await execa('umount', ['--lazy', path])),
    remount: async (mode) => void (await execa('mount', ['-o', `remount,${mode}`, path])),
    async fill(freeBytes) {
      const { stdout } = await execa('stat', ['-f', '-c', '%a %S', path]);
      const [blocks, blockBytes] = stdout.split(' ').map(Number);
      const length = (blocks ?? 0) * (blockBytes ?? 0) - freeBytes;
      await execa('fallocate', ['-l', String(length), join(path, 'filler')]);
    },
    // Ends when the file system is full: that is its failure.
    fillUp: async () => {
      const args = ['if=/dev/zero', `of=${join(path, 'filler')}`, 'bs=64k', 'status=none'];
      await execa('dd', args, { reject: false });
    },
    empty: () => rm(join(path, 'filler')),
    freeze: async () => void (await execa('fsfreeze', ['--freeze', path])),
    thaw: async () => void (await execa('fsfreeze', ['--unfreeze', path], { reject: false })),
    async remove() {
      await unmount();
      await rm(image);
    },
  };
}
