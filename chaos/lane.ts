import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { takeCare } from './care.js';
import { libvirtName, startDomain } from './domain.js';
import { startGuest, type Guest } from './guest.js';
import { startLedger, type Ledger } from './ledger.js';
import { startDaemon, type DiskSize } from './machine.js';
import { createRandom, type Random } from './random.js';
import { ignoreRunning, patiently, untilClosed, untilUnleased, type Run } from './run.js';
import { backupIdOf } from './victims.js';

/** A guest is replaced by a new one after so many restore points, and its points go with it: disk use stays bounded. */
const pointsPerGuest = 8;
/** After the last kill: a backup may have to wait for one that was ended, and for the copies of others. */
const lastTries = 4;

/** Backs one guest up again and again, and looks at each point, until the killing is over and a last backup is sealed. */
export async function live(run: Run, number: number): Promise<void> {
  for (let generation = 1; !run.isOver || generation === 1; generation += 1) {
    const random = createRandom(run.seed * 1000 + number * 100 + generation);
    const name = `vm${number}-${generation}`;
    const guest = await startGuest(name, random, (disks) => startMachine(run, number, name, disks));
    run.guests.push(guest);
    const ledger = startLedger(run.lab, guest);
    while (ledger.sealed() < pointsPerGuest && !run.isOver) await turn(run, guest, ledger, random);
    if (run.isOver) await sealLast(run, guest, ledger, random);
    run.problems.push(...(await look(guest, () => ledger.inspectAll())));
    if (run.isOver) return;
    run.guests.splice(run.guests.indexOf(guest), 1);
    await retire(run, guest);
  }
}

/** The first lanes are those under libvirt. */
function startMachine({ lab, libvirt, vms }: Run, number: number, name: string, disks: DiskSize[]) {
  return libvirt && number <= vms.libvirt ? startDomain(lab, libvirt, name, disks) : startDaemon(lab, name, disks);
}

async function sealLast(run: Run, guest: Guest, ledger: Ledger, random: Random): Promise<void> {
  for (let time = 1; time <= lastTries; time += 1) if (await turn(run, guest, ledger, random)) return;
  run.problems.push(`${guest.name}: no backup after the last kill was sealed`);
}

/** One backup, and now and then something else beside it. @returns whether it was sealed */
async function turn(run: Run, guest: Guest, ledger: Ledger, random: Random): Promise<boolean> {
  const before = ledger.sealed();
  await wait(random.between(0, 300));
  const cares = !run.isOver && random.between(0, 2) === 0;
  const [, inspectCare] = await Promise.all([
    backUp(run, guest),
    cares ? takeCare(run, guest, ledger, random) : Promise.resolve(async () => []),
  ]);
  run.problems.push(...(await look(guest, () => ledger.inspectNew())));
  run.problems.push(...(await look(guest, inspectCare)));
  const isSealed = ledger.sealed() > before;
  run.sealed += ledger.sealed() - before;
  if (guest.hypervisor === libvirtName) run.sealedUnderLibvirt += ledger.sealed() - before;
  if (isSealed) guest.history.forgetBefore(guest.history.length() - 500);
  else run.failed += 1;
  return isSealed;
}

async function backUp({ lab }: Run, guest: Guest): Promise<void> {
  const workflowId = backupIdOf(guest);
  await patiently(() => lab.start({ vm: guest.name, hypervisor: guest.hypervisor }, workflowId).catch(ignoreRunning));
  await patiently(() => untilClosed(lab, workflowId));
}

/** What cannot be looked at for long is a problem, too. */
function look(guest: Guest, inspect: () => Promise<string[]>): Promise<string[]> {
  return patiently(inspect).catch((error: unknown) => [`${guest.name}: ${String(error)}`]);
}

/** Removes a guest with all its restore points, so that the run's disk use stays bounded. */
async function retire({ lab }: Run, guest: Guest): Promise<void> {
  await guest.stop();
  await patiently(() => untilUnleased(lab, guest));
  await patiently(async () => {
    const { rows } = await lab.database.pool.query<{ directory: string }>(
      `delete from vm_backup_contexts where vm_name = $1 and not exists
         (select 1 from backup_jobs where context_id = vm_backup_contexts.id and clean_up = 'pending') returning directory`,
      [guest.name],
    );
    if (rows.length === 0) throw new Error(`Expected ${guest.name} cleaned up before it is removed`);
    for (const { directory } of rows) await rm(join(lab.repository.path, directory), { recursive: true, force: true });
  });
}
