import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Lab } from '../test/support/lab.js';

export interface DiskSize {
  key: string;
  sizeBytes: number;
}

/** A VM without an operating system: what a guest would write is written from outside. */
export interface Machine {
  /** The name of the one that runs it. */
  hypervisor: string;
  write: (key: string, offset: number, length: number, pattern: number) => Promise<void>;
  zero: (key: string, offset: number, length: number) => Promise<void>;
  /** As a power cut. Returns when it is dead. */
  kill: () => Promise<void>;
  /**
   * Starts it after a crash; killed meanwhile, it starts once more. Ends by `kill` the one that an earlier crash has started by
   * now. @returns what the crash has left on its disks
   */
  startAnew: (kill: () => Promise<void>) => Promise<Buffer[]>;
  /** What is open at its hypervisor, or was forgotten there, when no backup runs. */
  leftovers: () => Promise<string[]>;
  stop: () => Promise<void>;
}

/** Starts one on the lab's QMP hypervisor. */
export async function startDaemon(lab: Lab, name: string, disks: DiskSize[]): Promise<Machine> {
  const daemon = await lab.startVM(name, disks);
  return {
    hypervisor: 'lab',
    write: daemon.write,
    zero: daemon.zero,
    kill: daemon.kill,
    async startAnew(kill) {
      for (let attempt = 1; ; attempt += 1) {
        await kill(); // one that lives, with a copy that reads from it, would not end in good order
        try {
          await daemon.restart();
          return await readAll(lab, name, disks, daemon.read);
        } catch (error) {
          if (attempt === 20) throw error;
        }
      }
    },
    leftovers: async () => [], // the lab looks at those itself
    stop: daemon.stop,
  };
}

/** What disks hold; `read` puts one of them into a raw file. */
export async function readAll(
  lab: Lab,
  name: string,
  disks: readonly DiskSize[],
  read: (key: string, file: string) => Promise<void>,
): Promise<Buffer[]> {
  const directory = join(lab.directory, 'contents', name);
  await mkdir(directory, { recursive: true });
  const contents: Buffer[] = [];
  for (const { key } of disks) {
    await read(key, join(directory, key));
    contents.push(await readFile(join(directory, key)));
  }
  await rm(directory, { recursive: true });
  return contents;
}
