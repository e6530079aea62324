import { setTimeout as wait } from 'node:timers/promises';
import { startWorkerProcess } from '../test/faults/worker-process.js';
import { ownProcesses } from '../test/support/end-state.js';
import { libvirtName } from './domain.js';
import { killed, patiently, type Run } from './run.js';
import type { Guest } from './guest.js';
import type { Restartable } from './services.js';
import {
  backupIdOf,
  careIdOf,
  createDeck,
  endWorkflow,
  killProgram,
  ofAllGuests,
  ofLibvirt,
  ofOneGuest,
  send,
  type Deck,
  type Kind,
} from './victims.js';

/** Several at once, so that what one of them has stopped, or waits for, keeps the others from nothing. */
const killersOfOne = 4;
const longestPauseOfOneMs = 600;
/** Each costs all backups up to half a minute: with more of them, hardly any copy would run to be killed. */
const longestPauseOfAllMs = 30_000;
/** A few VMs have these to bear alone. */
const longestPauseOfLibvirtMs = 10_000;

/** Kills until enough is killed; then cancels what runs, so that nobody waits for the fifth attempt at a copy. */
export async function killAll(run: Run): Promise<void> {
  const weights = { ...ofOneGuest, source: run.vms.qmp > 0 ? ofOneGuest.source : 0 };
  const [one, all] = [createDeck(weights, run.random), createDeck(ofAllGuests, run.random)];
  const ofOne = Array.from({ length: killersOfOne }, () => killUntilEnough(run, one, longestPauseOfOneMs));
  const others = [killUntilEnough(run, all, longestPauseOfAllMs)];
  if (run.libvirt) others.push(killUntilEnough(run, createDeck(ofLibvirt, run.random), longestPauseOfLibvirtMs));
  await Promise.all([...ofOne, ...others]);
  run.isOver = true;
  const { workflow } = run.lab.client;
  const ids = run.guests.flatMap((guest) => [backupIdOf(guest), careIdOf(guest)]);
  await Promise.all(
    ids.map((id) =>
      workflow
        .getHandle(id)
        .cancel()
        .catch(() => undefined),
    ),
  ); // it may not run
}

async function killUntilEnough<K extends Kind>(run: Run, deck: Deck<K>, longestPauseMs: number): Promise<void> {
  while (killed(run) < run.wanted) {
    const kind = deck.deal();
    if (run.guests.length > 0 && (await kill(run, kind))) run.kills[kind] = (run.kills[kind] ?? 0) + 1;
    else deck.putBack(kind);
    const until = Date.now() + run.random.between(0, longestPauseMs);
    while (Date.now() < until && killed(run) < run.wanted) await wait(100);
  }
}

/** @returns whether something was killed */
async function kill(run: Run, kind: Kind): Promise<boolean> {
  const { lab, random, services, guests, worker } = run;
  switch (kind) {
    case 'worker':
    case 'worker (SIGTERM)':
      return restartWorker(run, kind);
    case 'machine':
      return restartMachine(run);
    case 'postgres':
    case 'postgres (SIGKILL)':
      return outage(services.postgres, kind === 'postgres' ? 'stop' : 'kill', random.between(500, 6_000));
    case 'temporal':
    case 'temporal (SIGKILL)':
      return outage(services.temporal, kind === 'temporal' ? 'stop' : 'kill', random.between(500, 6_000));
    case 'terminate':
    case 'cancel':
    case 'reset':
      return endWorkflow(lab, kind, guests, random);
    case 'libvirtd':
      await run.libvirt?.restart(random.between(0, 2_000));
      return true;
    case 'source':
      return crashOne(run, ({ hypervisor }) => hypervisor !== libvirtName);
    case 'QEMU of libvirt':
      return crashOne(run, ({ hypervisor }) => hypervisor === libvirtName);
    default:
      return worker !== undefined && killProgram(lab, kind, worker.pid, random);
  }
}

async function crashOne({ guests, random }: Run, isVictim: (guest: Guest) => boolean): Promise<boolean> {
  const victims = guests.filter(isVictim);
  if (victims.length === 0) return false;
  await random.pick(victims).crash(random.between(0, 2_000));
  return true;
}

/** One that ends by itself is a defect, and is started anew as a service manager would. */
export async function startWorker(run: Run): Promise<void> {
  const worker = await patiently(() => startWorkerProcess(run.lab, run.bundle));
  run.worker = worker;
  void worker.ended.then(async (how) => {
    if (run.worker !== worker) return;
    run.problems.push(`the worker ended by itself: ${how}`);
    await startWorker(run);
  });
}

async function restartWorker(run: Run, kind: 'worker' | 'worker (SIGTERM)'): Promise<boolean> {
  const { worker } = run;
  run.worker = undefined;
  await (kind === 'worker' ? worker?.kill() : worker?.terminate());
  await wait(run.random.between(0, 2_000));
  await startWorker(run);
  return worker !== undefined;
}

/** Everything of the host at once: its worker, what serves and copies, and all VMs. */
async function restartMachine(run: Run): Promise<boolean> {
  const { worker, lab, guests, random, libvirt } = run;
  run.worker = undefined;
  const downMs = random.between(0, 2_000);
  const crashes = [...guests.map((guest) => guest.crash(downMs)), ...(libvirt ? [libvirt.restart(downMs)] : [])];
  await worker?.kill();
  for (const { pid } of await ownProcesses(lab)) send(pid);
  await Promise.all(crashes);
  await startWorker(run);
  return true;
}

async function outage(server: Restartable, how: 'stop' | 'kill', downMs: number): Promise<boolean> {
  await server[how]();
  await wait(downMs);
  await patiently(() => server.start());
  return true;
}
