import { execa } from 'execa';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** A real file system of a given size, on a loop device: it fills, goes read-only and is unmounted as any other. Needs root. */
export interface SmallFileSystem {
  path: string;
  unmount: () => Promise<void>;
  mount: () => Promise<void>;
  remount: (mode: 'ro' | 'rw') => Promise<void>;
  /** Leaves only so much free. */
  fill: (freeBytes: number) => Promise<void>;
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
  const unmount = async () => void (await execa('umount', [path], { reject: false }));
  await mount();
  return {
    path,
    mount,
    unmount,
    remount: async (mode) => void (await execa('mount', ['-o', `remount,${mode}`, path])),
    async fill(freeBytes) {
      const { stdout } = await execa('stat', ['-f', '-c', '%a %S', path]);
      const [blocks, blockBytes] = stdout.split(' ').map(Number);
      const length = (blocks ?? 0) * (blockBytes ?? 0) - freeBytes;
      await execa('fallocate', ['-l', String(length), join(path, 'filler')]);
    },
    async remove() {
      await unmount();
      await rm(image);
    },
  };
}
