import { randomUUID } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import { ownProcesses } from '../test/support/end-state.js';
import type { Lab } from '../test/support/lab.js';
import type { Guest } from './guest.js';
import type { Random } from './random.js';

/** What can be killed, and how often each is chosen among its like. Of one guest's backup: */
export const ofOneBackup = {
  'qemu-nbd': 22,
  nbdcopy: 18,
  nbdkit: 12,
  source: 10,
  terminate: 10,
  cancel: 10,
  reset: 5,
} as const;
/** What all backups need. A dead worker costs half a minute, until its heartbeats are missed. */
export const ofAllBackups = { worker: 5, 'worker (SIGTERM)': 3, postgres: 3, temporal: 3 } as const;
export type Kind = keyof typeof ofOneBackup | keyof typeof ofAllBackups;

export function chooseKind<K extends Kind>(weights: Readonly<Record<K, number>>, random: Random): K {
  const kinds = Object.keys(weights) as K[];
  return random.pick(kinds.flatMap((kind) => Array.from({ length: weights[kind] }, () => kind)));
}

/** Kills one process of a kind, a moment after it was seen. @returns false when there was none for a while */
export async function killProgram(lab: Lab, program: string, random: Random): Promise<boolean> {
  for (const deadline = Date.now() + 5_000; Date.now() < deadline; await wait(40)) {
    const found = (await ownProcesses(lab)).filter((one) => one.program === program);
    if (found.length === 0) continue;
    const { pid } = random.pick(found);
    await wait(random.between(0, 60));
    const isStillIt = (await ownProcesses(lab)).some((one) => one.pid === pid && one.program === program);
    if (isStillIt && send(pid)) return true;
  }
  return false;
}

function send(pid: number): boolean {
  try {
    process.kill(pid, 'SIGKILL');
    return true;
  } catch {
    return false; // it went by itself
  }
}

/** Ends the workflow of a backup that runs, in one of the ways that Temporal knows. @returns false when none runs */
export async function endWorkflow(
  lab: Lab,
  kind: 'terminate' | 'cancel' | 'reset',
  guests: readonly Guest[],
  random: Random,
): Promise<boolean> {
  try {
    const handle = lab.client.workflow.getHandle(workflowIdOf(random.pick(guests)));
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

export const workflowIdOf = (guest: Pick<Guest, 'name'>) => `backup-vm/${guest.name}`;

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
