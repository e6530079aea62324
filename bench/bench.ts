import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { NativeConnection, Runtime, DefaultLogger } from '@temporalio/worker';
import { startServices } from '../chaos/services.js';
import { formatTable } from '../src/cli/format.js';
import type { BackupVMRequest } from '../src/domain/backup-input.js';
import type { BackupVMResult } from '../src/domain/result.js';
import { writeBlockHashes } from '../src/hashes/hash-disk.js';
import { runOrThrow } from '../src/process/run.js';
import { openInstallation } from '../src/temporal-namespace.js';
import { createWorkers } from '../src/worker.js';
import { mainQueue } from '../src/workflows/messages.js';
import { createLab, type Lab } from '../test/support/lab.js';
import { seconds, summarize, type Measure } from './measure.js';

// How fast, as multiples of what a plain tool needs for the same bytes in the same round. Never a test: docs/performance.md.

const MiB = 2 ** 20;
const { values } = parseArgs({
  options: { mib: { type: 'string', default: '256' }, rounds: { type: 'string', default: '3' } },
});
const [sizeMiB, rounds] = [Number(values.mib), Number(values.rounds)];
const sizeBytes = sizeMiB * MiB;
/** A sixteenth of the disk changes between two backups, in pieces of 1 MiB. */
const changedMiB = Math.max(1, Math.floor(sizeMiB / 16));

const measures: Measure[] = [
  { name: 'read the source (nbdcopy to null)', bytes: sizeBytes },
  { name: 'qemu-img convert of the source', bytes: sizeBytes },
  { name: 'BackupVM, full', bytes: sizeBytes, per: 'qemu-img convert of the source' },
  { name: '  its copy alone', bytes: sizeBytes, per: 'qemu-img convert of the source' },
  { name: '  its checks, hashes and seal', bytes: sizeBytes, per: 'BackupVM, full' },
  { name: '  block hashes alone', bytes: sizeBytes, per: 'BackupVM, full' },
  { name: 'BackupVM, incremental', bytes: changedMiB * MiB, per: 'BackupVM, full' },
  { name: 'qemu-img convert of the point', bytes: sizeBytes },
  { name: 'RestoreVM to a raw file', bytes: sizeBytes, per: 'qemu-img convert of the point' },
];

async function main(): Promise<void> {
  Runtime.install({ logger: new DefaultLogger('ERROR') });
  const services = await startServices();
  const lab = await createLab('bench', services.servers);
  const connection = await NativeConnection.connect({ address: services.servers.temporalAddress });
  const { db } = lab.database;
  const settings = { name: lab.namespace, address: services.servers.temporalAddress };
  const namespace = await openInstallation(db, connection, settings);
  const workers = await createWorkers(lab.config, { db, connection, namespace });
  const running = Promise.all(workers.map((worker) => worker.run()));
  try {
    const rows = summarize(measures, await measureRounds(lab));
    const cells = rows.map(({ name, seconds, mibPerSecond, ratio, per }) => [
      ...[name, seconds.toFixed(2), mibPerSecond.toFixed(0)],
      ratio === null ? '' : `${ratio.toFixed(2)} x ${per}`,
    ]);
    const headings = ['WHAT', 'SECONDS', 'MIB/S', 'TIME'];
    console.log(formatTable(headings, cells, { right: ['SECONDS', 'MIB/S'], colours: false }));
    console.log(JSON.stringify({ sizeMiB, changedMiB, rounds, cpus: cpus().length, rows }));
  } finally {
    for (const worker of workers) worker.shutdown();
    await running;
    await connection.close();
    await lab.close();
    await services.close();
  }
}

async function measureRounds(lab: Lab): Promise<Map<string, number>[]> {
  const work = join(lab.directory, 'bench');
  await mkdir(work);
  const random = join(work, 'random.raw');
  await pipeline(createReadStream('/dev/urandom', { end: sizeBytes - 1 }), createWriteStream(random));
  const image = join(lab.directory, 'machines', 'bench-disk.img');
  await runOrThrow('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', random, image], { timeoutMs: 600_000 });
  await rm(random);
  const vm = await lab.startVM('bench', [{ key: 'disk', sizeBytes }]);
  await lab.backUp({ vm: 'bench' }); // nothing is warm before the first round
  const found: Map<string, number>[] = [];
  for (let round = 0; round < rounds; round += 1) {
    console.error(`round ${round + 1} of ${rounds}`);
    for (let piece = 0; piece < changedMiB; piece += 1) await vm.write('disk', piece * 16 * MiB, MiB, round + 1);
    found.push(await measureRound(lab, work, round));
  }
  return found;
}

/** Everything once, the peers first in every other round. */
async function measureRound(lab: Lab, work: string, round: number): Promise<Map<string, number>> {
  const times = new Map<string, number>();
  const time = async (name: string, what: () => Promise<unknown>) => times.set(name, await seconds(what));
  const source = `nbd+unix:///disk?socket=${join(lab.directory, 'machines', 'bench.nbd')}`;
  const peer = join(work, 'peer.qcow2');
  const timeoutMs = 3_600_000;
  const peers = async () => {
    await time('read the source (nbdcopy to null)', () => runOrThrow('nbdcopy', [source, 'null:'], { timeoutMs }));
    await time('qemu-img convert of the source', () => convert(source, 'raw', peer, 'qcow2'));
  };
  if (round % 2 === 0) await peers();
  await time('BackupVM, incremental', () => lab.backUp({ vm: 'bench' }));
  let full: BackupVMResult | undefined;
  await time('BackupVM, full', async () => (full = await backUp(lab, { vm: 'bench', type: 'full' }, times)));
  if (round % 2 === 1) await peers();

  const file = join(lab.repository.path, full?.disks[0]?.path ?? 'none');
  const hashesFile = join(work, 'again.hashes');
  const request = { files: [file], format: 'qcow2', hashesFile, parentHashes: undefined } as const;
  await time('  block hashes alone', () => writeBlockHashes({ ...request, signal: AbortSignal.timeout(timeoutMs) }));
  await time('qemu-img convert of the point', () => convert(file, 'qcow2', join(work, 'peer.raw'), 'raw'));
  const directory = join(lab.directory, 'restores', String(round));
  await mkdir(directory, { recursive: true });
  const input = { point: full?.jobId, target: { kind: 'files', directory, format: 'raw' } };
  await time('RestoreVM to a raw file', () =>
    lab.client.workflow.execute('RestoreVM', { taskQueue: mainQueue, workflowId: `restore-${round}`, args: [input] }),
  );
  await rm(directory, { recursive: true });
  for (const name of await readdir(work)) await rm(join(work, name), { recursive: true });
  return times;
}

/** As restores and copies are made by hand, past the page cache. */
async function convert(source: string, from: string, target: string, to: string): Promise<void> {
  const args = ['convert', '-W', '-m', '16', '-t', 'none', '-T', 'none', '-f', from, '-O', to, source, target];
  await runOrThrow('qemu-img', args, { timeoutMs: 3_600_000 });
}

/** A backup, and from its history how long the copy and the seal took. */
async function backUp(lab: Lab, input: BackupVMRequest, times: Map<string, number>): Promise<BackupVMResult> {
  const handle = await lab.start(input);
  const result = await handle.result();
  const { events = [] } = await handle.fetchHistory();
  const took = (activity: string) => {
    const scheduled = events?.find(
      ({ activityTaskScheduledEventAttributes: event }) => event?.activityType?.name === activity,
    );
    const completed = events?.find(
      ({ activityTaskCompletedEventAttributes: event }) =>
        Number(event?.scheduledEventId) === Number(scheduled?.eventId),
    );
    return millis(completed?.eventTime) - millis(scheduled?.eventTime);
  };
  times.set('  its copy alone', took('transferDisk') / 1000);
  times.set('  its checks, hashes and seal', took('sealRestorePoint') / 1000);
  return result;
}

function millis(time: { seconds?: unknown; nanos?: number | null } | null | undefined): number {
  return Number(time?.seconds) * 1000 + (time?.nanos ?? 0) / 1e6;
}

await main();
