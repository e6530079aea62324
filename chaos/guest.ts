import { setTimeout as wait } from 'node:timers/promises';
import type { Random } from './random.js';
import { startHistory, type History } from './history.js';
import type { DiskSize, Machine } from './machine.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** A VM whose guest writes all the time, with the history of what it wrote. */
export interface Guest {
  name: string;
  /** The name of the one that runs it. */
  hypervisor: string;
  keys: string[];
  history: History;
  /** When its source was last killed, in ms since 1970: each time its bitmaps are lost. 0: never. */
  lastCrash: () => number;
  /** Kills it in the middle of whatever it does, and starts it anew after a while. */
  crash: (downMs: number) => Promise<void>;
  /** What is open at its hypervisor, or was forgotten there, when no backup runs. */
  leftovers: () => Promise<string[]>;
  stop: () => Promise<void>;
}

/** Starts one with one to three disks. */
export async function startGuest(
  name: string,
  random: Random,
  startMachine: (disks: DiskSize[]) => Promise<Machine>,
): Promise<Guest> {
  const disks = Array.from({ length: random.between(1, 3) }, (_, index) => ({
    key: `disk${index}`,
    sizeBytes: random.between(2, 12) * MiB + 512 * random.between(0, 3),
  }));
  const machine = await startMachine(disks);
  const history = startHistory(disks.map(({ sizeBytes }) => sizeBytes));
  const inTurn = createTurns();
  let lastCrash = 0;
  let isStopped = false;

  async function write(): Promise<void> {
    const disk = random.between(0, disks.length - 1);
    const { key, sizeBytes } = disks[disk] ?? { key: '', sizeBytes: 0 };
    const length = 512 * random.between(1, 512);
    const offset = 512 * random.between(0, (sizeBytes - length) / 512);
    const pattern = random.between(0, 3) === 0 ? 0 : random.between(1, 255);
    history.add({ disk, offset, bytes: Buffer.alloc(length, pattern) });
    // One that is cut off by a crash may have been done or not: both are in the history, and the disks are read anew.
    await (pattern === 0 ? machine.zero(key, offset, length) : machine.write(key, offset, length, pattern));
  }
  async function live(): Promise<void> {
    while (!isStopped) {
      await inTurn(() => (isStopped ? Promise.resolve() : write().catch(() => undefined)));
      await wait(random.between(50, 500));
    }
  }

  const life = live();
  return {
    name,
    hypervisor: machine.hypervisor,
    keys: disks.map(({ key }) => key),
    history,
    lastCrash: () => lastCrash,
    async crash(downMs) {
      const kill = async () => {
        await machine.kill();
        lastCrash = Date.now();
      };
      await kill();
      await inTurn(async () => {
        if (isStopped) return;
        await wait(downMs);
        history.add({ contents: await machine.startAnew(kill) });
      });
    },
    leftovers: () => machine.leftovers(),
    async stop() {
      isStopped = true;
      await life;
      await inTurn(() => machine.stop());
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
