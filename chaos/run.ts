import type { WorkerBundle } from '../test/faults/bundle.js';
import { setTimeout as wait } from 'node:timers/promises';
import type { WorkerProcess } from '../test/faults/worker-process.js';
import type { Lab } from '../test/support/lab.js';
import type { Guest } from './guest.js';
import type { Libvirt } from './libvirt.js';
import type { Random } from './random.js';
import type { Services } from './services.js';
import type { Kind } from './victims.js';

/** What all parts of a chaos run share. */
export interface Run {
  lab: Lab;
  services: Services;
  /** Undefined where no VM is to run under one. */
  libvirt: Libvirt | undefined;
  /** How many run at each hypervisor. */
  vms: { qmp: number; libvirt: number };
  bundle: WorkerBundle;
  seed: number;
  random: Random;
  /** Undefined while it has been ended on purpose. */
  worker: WorkerProcess | undefined;
  guests: Guest[];
  kills: Partial<Record<Kind, number>>;
  wanted: number;
  sealed: number;
  /** Of these, those of VMs under libvirt. */
  sealedUnderLibvirt: number;
  failed: number;
  /** Restores, verifications, deletions and prunes: those that completed, and those that did not. */
  care: Record<string, { completed: number; failed: number }>;
  problems: string[];
  /** Set when no more is killed. */
  isOver: boolean;
}

export const killed = ({ kills }: Run) => Object.values(kills).reduce((sum, count) => sum + count, 0);

/** Postgres and the Temporal server are away at times. What goes wrong for longer goes wrong for good. */
export async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (const deadline = Date.now() + 90_000; ; await wait(200)) {
    try {
      return await work();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

/** A run that was reset goes on under the same id. */
export function ignoreRunning(error: unknown): void {
  if ((error as Error).name !== 'WorkflowExecutionAlreadyStartedError') throw error;
}

/** Waits until no run of the workflow is open. @returns how the last one ended */
export async function untilClosed(lab: Lab, workflowId: string): Promise<string> {
  for (;;) {
    const { status } = await lab.client.workflow.getHandle(workflowId).describe();
    if (status.name !== 'RUNNING') return status.name;
    await wait(100);
  }
}

/** Waits until nobody works on the restore points of a guest: also what was terminated has been finished by then. */
export async function untilUnleased(lab: Lab, { name }: Pick<Guest, 'name'>): Promise<void> {
  for (const deadline = Date.now() + 120_000; ; await wait(100)) {
    const { rowCount } = await lab.database.pool.query(
      `select 1 from chain_leases l join vm_backup_contexts c on c.id = l.context_id where c.vm_name = $1`,
      [name],
    );
    if (rowCount === 0) return;
    if (Date.now() > deadline) throw new Error(`${name}: a lease on its restore points stays`);
  }
}
