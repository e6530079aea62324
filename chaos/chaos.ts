import { dirname } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { addHypervisor } from '../src/db/hypervisors.js';
import { bundleWorker } from '../test/faults/bundle.js';
import { bundleWorkflows } from '../test/support/bundle-workflows.js';
import { findDamage, findLeftovers, type Leftovers } from '../test/support/end-state.js';
import { createLab } from '../test/support/lab.js';
import { libvirtName } from './domain.js';
import { killAll, startWorker } from './killers.js';
import { live } from './lane.js';
import { libvirtIsHere, startLibvirt } from './libvirt.js';
import { createRandom } from './random.js';
import { killed, type Run } from './run.js';
import { startServices } from './services.js';

/** Of the host's own schedule, faster: it runs every 5 minutes in real life. */
const reconcileIntervalMs = 5_000;
/** How long the host has to clean up after the last kill: a step whose worker died is given up after a minute. */
const lastCleanUpMs = 120_000;

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '200' },
    seed: { type: 'string', default: '1' },
    vms: { type: 'string', default: '6' },
    /** How many of the VMs run under libvirt, as a fraction; at least one, unless it is 0. */
    'libvirt-share': { type: 'string', default: libvirtIsHere() ? '0.1' : '0' },
  },
});

const count = (found: Leftovers) => ({
  orphans: [
    ...[...found.processes, ...found.source, ...found.openJobs, ...found.chainLeases, ...found.tombstones],
    ...[
      ...found.unfinished,
      ...found.strayFiles,
      ...found.keptWithoutRow,
      ...found.scratch,
      ...found.run,
      ...found.temporary,
    ],
  ],
  leakedPorts: [...found.leases, ...found.openSockets],
  damageMarks: found.damageMarks,
});

/** What is left once everything has ended, and the host has had its time to clean up by itself. */
async function findRemains(run: Run): Promise<ReturnType<typeof count>> {
  for (const deadline = Date.now() + lastCleanUpMs; ; await wait(1_000)) {
    const atHypervisors = (await Promise.all(run.guests.map((guest) => guest.leftovers()))).flat();
    const found = count(await findLeftovers(run.lab));
    found.orphans.push(...atHypervisors);
    if (Date.now() > deadline || (found.orphans.length === 0 && found.leakedPorts.length === 0)) return found;
  }
}

/** Looks at what is there when all is over, and prints the outcome. @returns whether nothing is wrong */
async function conclude(run: Run, seconds: number): Promise<boolean> {
  const { orphans, leakedPorts, damageMarks } = await findRemains(run);
  const { missingFiles, changedFiles } = await findDamage(run.lab);
  const damaged = [...run.problems, ...damageMarks, ...missingFiles, ...changedFiles];
  for (const line of [...orphans, ...leakedPorts, ...damaged]) console.error(line);
  const { seed, kills, sealed, sealedUnderLibvirt, failed, care, vms } = run;
  const libvirt = { vms: vms.libvirt, sealed: sealedUnderLibvirt };
  const counted = { orphans: orphans.length, leakedPorts: leakedPorts.length, damagedPoints: damaged.length };
  console.log(JSON.stringify({ seed, kills, sealed, failed, libvirt, ...care, seconds, ...counted }));
  return orphans.length + leakedPorts.length + damaged.length === 0;
}

const told = (error: unknown) => (error instanceof Error ? (error.stack ?? error.message) : String(error));

async function main(): Promise<boolean> {
  const [wanted, seed, lanes] = [Number(values.kills), Number(values.seed), Number(values.vms)];
  const share = Number(values['libvirt-share']);
  const underLibvirt = share > 0 ? Math.min(lanes, Math.max(1, Math.round(share * lanes))) : 0;
  const begun = Date.now();
  const seconds = () => Math.round((Date.now() - begun) / 1000);
  const [services, program, libvirt] = await Promise.all([
    startServices(),
    bundleWorker(),
    underLibvirt > 0 ? startLibvirt() : undefined,
  ]);
  const workflowPath = await bundleWorkflows(dirname(program.workerPath));
  const lab = await createLab('chaos', services.servers, {
    ports: 32,
    withSearchAttributes: false,
    reconcileIntervalMs,
  });
  const random = createRandom(seed);
  if (libvirt) {
    const { host } = lab.config;
    await addHypervisor(lab.database.db, { name: libvirtName, kind: 'libvirt', uri: libvirt.uri, host });
  }
  const counts = {
    kills: {},
    wanted,
    sealed: 0,
    sealedUnderLibvirt: 0,
    failed: 0,
    care: {},
    problems: [],
    isOver: false,
  };
  const run: Run = {
    lab,
    services,
    bundle: { ...program, workflowPath },
    seed,
    random,
    worker: undefined,
    libvirt,
    vms: { qmp: lanes - underLibvirt, libvirt: underLibvirt },
    guests: [],
    ...counts,
  };
  const say = () => {
    const { sealed, failed, problems } = run;
    const said = `${killed(run)} of ${wanted} kills, ${sealed} sealed, ${failed} failed, ${problems.length} problems`;
    console.error(`${seconds()} s: ${said}`);
  };
  process.on('SIGINT', () => (run.wanted = 0)); // Ctrl-C: no more is killed, and what was is looked at
  const report = setInterval(say, 5_000);
  try {
    await startWorker(run);
    // A lane that cannot go on is a problem to tell of at the end; the others go on.
    const lives = Array.from({ length: lanes }, (_, number) =>
      live(run, number + 1).catch((error: unknown) => void run.problems.push(`lane ${number + 1}: ${told(error)}`)),
    );
    await Promise.all([killAll(run), ...lives]);
    return await conclude(run, seconds());
  } finally {
    clearInterval(report);
    const { worker } = run;
    run.worker = undefined;
    await worker?.kill();
    await Promise.all(run.guests.map((guest) => guest.stop()));
    await libvirt?.stop();
    await lab.close();
    await program.remove();
    await services.close();
  }
}

process.exitCode = (await main()) ? 0 : 1;
process.exit();
