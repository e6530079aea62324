import { randomUUID } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type { Lab } from '../test/support/lab.js';
import type { Guest } from './guest.js';
import type { Random } from './random.js';

/** What can be killed, and how often each is among the cards that are dealt. Of one guest's workflows: */
export const ofOneGuest = {
  ...{ 'qemu-nbd': 5, nbdcopy: 4, nbdkit: 3, 'qemu-img': 2 },
  ...{ source: 2, terminate: 3, cancel: 3, reset: 3 },
} as const;
/** What all guests need. A dead worker costs half a minute, until its heartbeats are missed. */
export const ofAllGuests = {
  ...{ worker: 1, 'worker (SIGTERM)': 1, machine: 1 },
  ...{ postgres: 1, 'postgres (SIGKILL)': 1, temporal: 1, 'temporal (SIGKILL)': 1 },
} as const;
/** Only where VMs run under libvirt. */
export const ofLibvirt = { libvirtd: 1, 'QEMU of libvirt': 1 } as const;
export type Kind = keyof typeof ofOneGuest | keyof typeof ofAllGuests | keyof typeof ofLibvirt;

/** Deals kinds in random order, each as often as it weighs, so that none is left out for long. */
export interface Deck<K extends Kind> {
  deal: () => K;
  /** Of a card that found no victim: it comes again later. */
  putBack: (kind: K) => void;
}

export function createDeck<K extends Kind>(weights: Readonly<Record<K, number>>, random: Random): Deck<K> {
  const kinds = Object.keys(weights) as K[];
  const cards: K[] = [];
  return {
    deal() {
      if (cards.length === 0) cards.push(...kinds.flatMap((kind) => Array.from({ length: weights[kind] }, () => kind)));
      return cards.splice(random.between(0, cards.length - 1), 1)[0] ?? random.pick(kinds);
    },
    putBack: (kind) => void cards.push(kind),
  };
}

/** Kills one process of a kind, a moment after it was seen. @returns false when there was none for a while */
export async function killProgram(lab: Lab, program: string, workerPid: number, random: Random): Promise<boolean> {
  for (const deadline = Date.now() + 5_000; Date.now() < deadline; await wait(20)) {
    const found = await victims(lab, program, workerPid);
    if (found.length === 0) continue;
    const pid = random.pick(found);
    await wait(random.between(0, 20)); // a copy of these disks takes about 100 ms
    if ((await victims(lab, program, workerPid)).includes(pid) && send(pid)) return true;
  }
  return false;
}

/** Looked for often, so without a look at all of /proc; and only below the worker: our own looks at files are none. */
async function victims(lab: Lab, program: string, workerPid: number): Promise<number[]> {
  if (program === 'qemu-nbd') return exportPids(lab);
  return childrenOf(workerPid, program);
}

async function exportPids({ config }: Lab): Promise<number[]> {
  const directory = join(config.runDir, 'exports');
  const files = await readdir(directory).catch(() => []);
  const texts = await Promise.all(files.map((file) => readFile(join(directory, file), 'latin1').catch(() => '')));
  const pids = texts.map(Number).filter((pid) => pid > 1);
  const isOurs = async (pid: number) => {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return /^\S*qemu-nbd\0/.test(commandLine) && commandLine.includes(config.runDir); // a pid file may be stale
  };
  const areOurs = await Promise.all(pids.map(isOurs));
  return pids.filter((_, index) => areOurs[index]);
}

async function childrenOf(parent: number, program: string): Promise<number[]> {
  const text = await readFile(`/proc/${parent}/task/${parent}/children`, 'latin1').catch(() => '');
  const children = text.split(' ').filter(Boolean);
  const names = await Promise.all(children.map((pid) => readFile(`/proc/${pid}/comm`, 'latin1').catch(() => '')));
  return children.filter((_, index) => names[index]?.trim() === program).map(Number);
}

/** Kills one process. @returns false when it went by itself */
export function send(pid: number): boolean {
  try {
    process.kill(pid, 'SIGKILL');
    return true;
  } catch {
    return false;
  }
}

/** Ends a workflow that runs, in one of the ways that Temporal knows. @returns false when the one that was chosen does not run */
export async function endWorkflow(
  lab: Lab,
  kind: 'terminate' | 'cancel' | 'reset',
  guests: readonly Guest[],
  random: Random,
): Promise<boolean> {
  try {
    const guest = random.pick(guests);
    const handle = lab.client.workflow.getHandle(random.pick([backupIdOf(guest), backupIdOf(guest), careIdOf(guest)]));
    const { status, runId } = await handle.describe();
    if (status.name !== 'RUNNING') return false;
    if (kind === 'terminate') await handle.terminate('chaos');
    else if (kind === 'cancel') await handle.cancel();
    else await reset(lab, handle.workflowId, runId, random);
    return true;
  } catch {
    return false; // not started yet, or it ended meanwhile
  }
}

export const backupIdOf = ({ name }: Pick<Guest, 'name'>) => `backup-vm/${name}`;
/** Restores, verifications, deletions and prunes of one guest: one at a time. */
export const careIdOf = ({ name }: Pick<Guest, 'name'>) => `care/${name}`;

async function reset(lab: Lab, workflowId: string, runId: string, random: Random): Promise<void> {
  const { events } = await lab.client.workflow.getHandle(workflowId, runId).fetchHistory();
  const tasks = (events ?? []).filter(({ eventType }) => Number(eventType) === 7); // WORKFLOW_TASK_COMPLETED
  const taskFinishEventId = Number(random.pick(tasks).eventId);
  await lab.client.workflowService.resetWorkflowExecution({
    namespace: lab.namespace,
    workflowExecution: { workflowId, runId },
    workflowTaskFinishEventId: taskFinishEventId as unknown as Long,
    reason: 'chaos',
    requestId: randomUUID(),
  });
}

type Long = NonNullable<
  Parameters<Lab['client']['workflowService']['resetWorkflowExecution']>[0]['workflowTaskFinishEventId']
>;
