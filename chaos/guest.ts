import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type { Lab } from '../test/support/lab.js';
import type { StorageDaemon } from '../test/support/storage-daemon.js';
import type { Random } from './random.js';
import { startHistory, type History } from './history.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** A VM whose guest writes all the time, with the history of what it wrote. */
export interface Guest {
  name: string;
  keys: string[];
  history: History;
  /** How often its source has been killed: each time its bitmaps are lost. */
  crashes: () => number;
  /** Kills it in the middle of whatever it does, and starts it anew after a while. */
  crash: (downMs: number) => Promise<void>;
  stop: () => Promise<void>;
}

/** Starts one with one to three disks. */
export async function startGuest(lab: Lab, name: string, random: Random): Promise<Guest> {
  const disks = Array.from({ length: random.between(1, 3) }, (_, index) => ({
    key: `disk${index}`,
    sizeBytes: random.between(2, 12) * MiB + 512 * random.between(0, 3),
  }));
  const daemon = await lab.startVM(name, disks);
  const history = startHistory(disks.map(({ sizeBytes }) => sizeBytes));
  const inTurn = createTurns();
  let crashes = 0;
  let isStopped = false;

  async function write(): Promise<void> {
    const disk = random.between(0, disks.length - 1);
    const { key, sizeBytes } = disks[disk] ?? { key: '', sizeBytes: 0 };
    const length = 512 * random.between(1, 512);
    const offset = 512 * random.between(0, (sizeBytes - length) / 512);
    const pattern = random.between(0, 3) === 0 ? 0 : random.between(1, 255);
    history.add({ disk, offset, bytes: Buffer.alloc(length, pattern) });
    // One that is cut off by a crash may have been done or not: both are in the history, and the disks are read anew.
    await (pattern === 0 ? daemon.zero(key, offset, length) : daemon.write(key, offset, length, pattern));
  }
  async function live(): Promise<void> {
    while (!isStopped) {
      await inTurn(() => (isStopped ? Promise.resolve() : write().catch(() => undefined)));
      await wait(random.between(50, 500));
    }
  }

  /** Starts it after a crash, and reads what the crash has left; killed meanwhile, it starts once more. */
  async function startAnew(): Promise<Buffer[]> {
    for (let attempt = 1; ; attempt += 1) {
      await daemon.kill(); // one that lives, with a copy that reads from it, would not end in good order
      try {
        await daemon.restart();
        return await readAll(lab, daemon, name, disks);
      } catch (error) {
        if (attempt === 20) throw error;
      }
    }
  }

  const life = live();
  return {
    name,
    keys: disks.map(({ key }) => key),
    history,
    crashes: () => crashes,
    async crash(downMs) {
      crashes += 1;
      await daemon.kill();
      await inTurn(async () => {
        if (isStopped) return;
        await wait(downMs);
        history.add({ contents: await startAnew() });
      });
    },
    async stop() {
      isStopped = true;
      await life;
      await inTurn(() => daemon.stop());
    },
  };
}

/** One after the other. */
function createTurns(): <T>(work: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const mine = last.then(work, work);
    last = mine.catch(() => undefined);
    return mine;
  };
}

async function readAll(
  lab: Lab,
  daemon: StorageDaemon,
  name: string,
  disks: readonly { key: string }[],
): Promise<Buffer[]> {
  const directory = join(lab.directory, 'contents', name);
  await mkdir(directory, { recursive: true });
  const contents: Buffer[] = [];
  for (const { key } of disks) {
    await daemon.read(key, join(directory, key));
    contents.push(await readFile(join(directory, key)));
  }
  await rm(directory, { recursive: true });
  return contents;
}
