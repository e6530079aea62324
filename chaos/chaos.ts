import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { mainQueue } from '../src/workflows/messages.js';
import { makeBundle } from '../test/faults/bundle.js';
import { startWorkerProcess, type WorkerProcess } from '../test/faults/worker-process.js';
import { findDamage, findLeftovers, type Leftovers } from '../test/support/end-state.js';
import { createLab, type Lab } from '../test/support/lab.js';
import { startGuest, type Guest } from './guest.js';
import { startLedger, type Ledger } from './ledger.js';
import { createRandom, type Random } from './random.js';
import { startServices, type Restartable, type Services } from './services.js';
import { chooseKind, endWorkflow, killProgram, ofAllBackups, ofOneBackup, workflowIdOf, type Kind } from './victims.js';

/** A guest is replaced by a new one after so many restore points, and its points go with it: disk use stays bounded. */
const pointsPerGuest = 8;
/** ReconcileHost's schedule, faster: it runs every minute in real life. */
const reconcileEveryMs = 5_000;

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '200' },
    seed: { type: 'string', default: '1' },
    vms: { type: 'string', default: '5' },
  },
});

interface Run {
  lab: Lab;
  services: Services;
  bundlePath: string;
  random: Random;
  /** Undefined while it has been ended on purpose. */
  worker: WorkerProcess | undefined;
  guests: Guest[];
  kills: Partial<Record<Kind, number>>;
  wanted: number;
  sealed: number;
  failed: number;
  problems: string[];
  /** Set when no more is killed. */
  isOver: boolean;
}

const killed = ({ kills }: Run) => Object.values(kills).reduce((sum, count) => sum + count, 0);

/** Backs one guest up again and again, and looks at each point, until the killing is over and a last backup is sealed. */
async function lane(run: Run, number: number): Promise<void> {
  for (let generation = 1; ; generation += 1) {
    const random = createRandom(Number(values.seed) * 1000 + number * 100 + generation);
    const guest = await startGuest(run.lab, `vm${number}-${generation}`, random);
    run.guests.push(guest);
    const ledger = startLedger(run.lab, guest);
    let isLast = false;
    while (ledger.sealed() < pointsPerGuest && !isLast) {
      isLast = run.isOver;
      const isSealed = await backUpOnce(run, guest, ledger);
      if (isLast && !isSealed) run.problems.push(`${guest.name}: the backup after the last kill was not sealed`);
    }
    run.problems.push(...(await patiently(() => ledger.inspectAll())));
    if (isLast) return;
    run.guests.splice(run.guests.indexOf(guest), 1);
    await retire(run, guest);
  }
}

/** @returns whether it was sealed */
async function backUpOnce(run: Run, guest: Guest, ledger: Ledger): Promise<boolean> {
  const { lab, random } = run;
  const before = ledger.sealed();
  await wait(random.between(0, 500));
  const workflowId = workflowIdOf(guest);
  ledger.begin();
  await patiently(() => lab.start({ vm: guest.name }, workflowId).catch(ignoreRunning));
  await patiently(() => untilClosed(lab, workflowId));
  run.problems.push(...(await patiently(() => ledger.inspectNew())));
  const isSealed = ledger.sealed() > before;
  run.sealed += ledger.sealed() - before;
  if (!isSealed) {
    run.failed += 1;
    await wait(1_000); // a run that was terminated has to be reconciled first
  } else guest.history.forgetBefore(guest.history.length() - 500);
  return isSealed;
}

/** A run that was reset goes on under the same id. */
function ignoreRunning(error: unknown): void {
  if ((error as Error).name !== 'WorkflowExecutionAlreadyStartedError') throw error;
}

/** Waits until no run of the workflow is open, whatever became of it. */
async function untilClosed(lab: Lab, workflowId: string): Promise<void> {
  for (;;) {
    const { status } = await lab.client.workflow.getHandle(workflowId).describe();
    if (status.name !== 'RUNNING') return;
    await wait(200);
  }
}

/** Postgres and the Temporal server are away at times. What goes wrong for longer goes wrong for good. */
async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (const deadline = Date.now() + 90_000; ; await wait(500)) {
    try {
      return await work();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

/** Removes a guest with all its restore points, so that the run's disk use stays bounded. */
async function retire({ lab }: Run, guest: Guest): Promise<void> {
  await guest.stop();
  await patiently(async () => {
    const { rows } = await lab.database.pool.query<{ directory: string }>(
      `delete from vm_backup_contexts where vm_name = $1 returning directory`,
      [guest.name],
    );
    for (const { directory } of rows) await rm(join(lab.repository.path, directory), { recursive: true, force: true });
  });
}

/** As the schedule does, and never two at once. */
async function reconcileAgainAndAgain(run: Run, stop: AbortSignal): Promise<void> {
  const { host } = run.lab.config;
  while (!stop.aborted) {
    const start = () =>
      run.lab.client.workflow
        .start('ReconcileHost', { taskQueue: mainQueue, workflowId: `reconcile/${host}`, args: [{ host }] })
        .catch(ignoreRunning);
    await patiently(start);
    await wait(reconcileEveryMs, undefined, { signal: stop }).catch(() => undefined);
  }
}

/** @returns whether something was killed */
async function kill(run: Run, kind: Kind): Promise<boolean> {
  const { lab, random, services, guests } = run;
  if (kind === 'worker' || kind === 'worker (SIGTERM)') return restartWorker(run, kind);
  if (kind === 'postgres') return outage(services.postgres, random);
  if (kind === 'temporal') return outage(services.temporal, random);
  if (kind === 'terminate' || kind === 'cancel' || kind === 'reset') return endWorkflow(lab, kind, guests, random);
  if (kind !== 'source') return killProgram(lab, kind, random);
  await random.pick(guests).crash(random.between(0, 2_000));
  return true;
}

/** One that ends by itself is a defect, and is started anew as a service manager would. */
async function startWorker(run: Run): Promise<void> {
  const worker = await patiently(() => startWorkerProcess(run.lab, run.bundlePath));
  run.worker = worker;
  void worker.ended.then(async (how) => {
    if (run.worker !== worker) return;
    run.problems.push(`the worker ended by itself: ${how}`);
    await startWorker(run);
  });
}

async function restartWorker(run: Run, kind: Kind): Promise<boolean> {
  const { worker } = run;
  run.worker = undefined;
  await (kind === 'worker' ? worker?.kill() : worker?.terminate());
  await wait(run.random.between(0, 2_000));
  await startWorker(run);
  return worker !== undefined;
}

async function outage(server: Restartable, random: Random): Promise<boolean> {
  await server.stop();
  await wait(random.between(500, 6_000));
  await server.start();
  return true;
}

async function killUntilEnough<K extends Kind>(
  run: Run,
  weights: Readonly<Record<K, number>>,
  longestPauseMs: number,
): Promise<void> {
  while (killed(run) < run.wanted) {
    const kind = chooseKind(weights, run.random);
    if (run.guests.length > 0 && (await kill(run, kind))) run.kills[kind] = (run.kills[kind] ?? 0) + 1;
    const until = Date.now() + run.random.between(0, longestPauseMs);
    while (Date.now() < until && killed(run) < run.wanted) await wait(100);
  }
}

/** Several at once, so that what one of them has stopped, or waits for, keeps the others from nothing. */
async function killAll(run: Run): Promise<void> {
  const ofOne = Array.from({ length: 4 }, () => killUntilEnough(run, ofOneBackup, 600));
  await Promise.all([...ofOne, killUntilEnough(run, ofAllBackups, 90_000)]);
  run.isOver = true;
}

const count = (found: Leftovers) => ({
  orphans: [
    ...found.processes,
    ...found.source,
    ...found.openJobs,
    ...found.unfinished,
    ...found.strayFiles,
    ...found.scratch,
  ],
  leakedPorts: [...found.leases, ...found.openPorts],
});

/** What is left once everything has ended, and the last reconcile has run. */
async function findRemains(run: Run): Promise<ReturnType<typeof count>> {
  for (let attempt = 1; ; attempt += 1) {
    const { host } = run.lab.config;
    await run.lab.client.workflow
      .execute('ReconcileHost', { taskQueue: mainQueue, workflowId: `reconcile/${host}/last`, args: [{ host }] })
      .catch(() => undefined);
    const found = count(await findLeftovers(run.lab));
    if (attempt >= 3 || (found.orphans.length === 0 && found.leakedPorts.length === 0)) return found;
  }
}

async function main(): Promise<boolean> {
  const wanted = Number(values.kills);
  const lanes = Number(values.vms);
  const begun = Date.now();
  const services = await startServices();
  const bundle = await makeBundle();
  const lab = await createLab('chaos', services.servers, { ports: 32, withSearchAttributes: false });
  const random = createRandom(Number(values.seed));
  const counts = { kills: {}, wanted, sealed: 0, failed: 0, problems: [], isOver: false };
  const run: Run = { lab, services, bundlePath: bundle.codePath, random, worker: undefined, guests: [], ...counts };
  const said = () =>
    `${Math.round((Date.now() - begun) / 1000)} s: ${killed(run)} of ${wanted} kills, ${run.sealed} sealed`;
  process.on('SIGINT', () => (run.wanted = 0)); // Ctrl-C: no more is killed, and what was is looked at
  const report = setInterval(
    () => console.error(`${said()}, ${run.failed} failed, ${run.problems.length} problems`),
    5_000,
  );
  const over = new AbortController();
  try {
    await startWorker(run);
    const reconciling = reconcileAgainAndAgain(run, over.signal);
    const lives = Array.from({ length: lanes }, (_, number) => lane(run, number + 1));
    await Promise.all([killAll(run), ...lives]);
    over.abort();
    await reconciling;
    const { orphans, leakedPorts } = await findRemains(run);
    const { missingFiles, changedFiles } = await findDamage(lab);
    const damaged = [...run.problems, ...missingFiles, ...changedFiles];
    for (const line of [...orphans, ...leakedPorts, ...damaged]) console.error(line);
    const outcome = {
      seed: Number(values.seed),
      kills: run.kills,
      sealed: run.sealed,
      failed: run.failed,
      seconds: Math.round((Date.now() - begun) / 1000),
    };
    const counted = { orphans: orphans.length, leakedPorts: leakedPorts.length, damagedPoints: damaged.length };
    console.log(JSON.stringify({ ...outcome, ...counted }));
    return orphans.length + leakedPorts.length + damaged.length === 0;
  } finally {
    clearInterval(report);
    over.abort();
    const { worker } = run;
    run.worker = undefined;
    await worker?.terminate();
    await Promise.all(run.guests.map((guest) => guest.stop()));
    await lab.close();
    await bundle.remove();
    await services.close();
  }
}

process.exitCode = (await main()) ? 0 : 1;
process.exit();
