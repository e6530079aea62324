import { homedir } from 'node:os';
import { join } from 'node:path';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { formatTable } from '../src/cli/format.js';
import { openDatabase, type Database } from '../src/db/database.js';
import { listDisks } from '../src/db/disks.js';
import { listJobs } from '../src/db/jobs.js';
import { formatBytes } from '../src/domain/format-bytes.js';
import { attachToGuest, kvmUsable, prepareGuestImage, startGuest, type Guest } from './guest.js';
import { startLab, type Lab } from './lab.js';
import { ensureLibvirtd } from './libvirtd.js';
import { checksumInImage, checksumsInGuest, compareWithWitness, witnessed } from './witness.js';

// The main job, whole, on real parts: a guest is backed up in full and incrementally while it runs, both restore points are
// compared with what its disks held, and the last one becomes a new VM that boots and checks its files itself.

const MiB = 1024 * 1024;
const disks = [
  { target: 'vda', sizeBytes: 256 * MiB, serial: 'demo-root' },
  { target: 'vdb', sizeBytes: 128 * MiB },
];
const started = Date.now();

function say(line: string): void {
  console.log(`${`${((Date.now() - started) / 1000).toFixed(1)} s`.padStart(7)}  ${line}`);
}

const keep = process.argv.includes('--keep');
const unknown = process.argv.slice(2).filter((argument) => argument !== '--keep');
if (unknown.length > 0) {
  console.error(`Expected no argument but --keep, found: ${unknown.join(' ')}`);
  process.exit(2);
}

const undo: (() => Promise<void>)[] = [];
let exitCode = 0;
try {
  await demo();
} catch (error) {
  console.error(error instanceof Error ? `\ndemo: ${error.message}` : error);
  exitCode = 1;
} finally {
  for (let step = undo.pop(); step; step = undo.pop()) {
    await step().catch((error: unknown) => {
      console.error(error);
      exitCode = 1;
    });
  }
  say('Stopped: the guests, the worker, Temporal, Postgres');
}
process.exit(exitCode);

async function demo(): Promise<void> {
  say('Starting libvirt');
  const libvirtd = await ensureLibvirtd();
  undo.push(() => libvirtd.stop());
  const cache = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'backupvm', 'guest');
  const image = await prepareGuestImage(cache, say);
  const lab = await startLab((line) => say(`Starting: ${line}`.replace('Starting: $', '$')));
  undo.push(lab.stop);

  const kvm = await kvmUsable();
  say(`Booting web01, a Linux guest with two disks (${kvm ? 'KVM' : 'emulated: no KVM here'})`);
  const machines = join(lab.directory, 'machines');
  const guest = await startGuest({ image, name: 'web01', directory: machines, disks, kvm });
  undo.push(() => guest.destroy());
  await lab.backupvm('hypervisor', 'add', 'here', '--kind', 'libvirt', '--uri', 'qemu:///system');
  await lab.backupvm('repository', 'add', 'main', '--path', join(lab.directory, 'repository'));
  await guest.waitUntilReady();

  say('The guest writes files, and goes on writing all the time');
  await guest.run(`
    cd /mnt/vda && dd if=/dev/urandom of=database bs=1M count=24 && dd if=/dev/urandom of=archive bs=1M count=16 && seq 100000 >notes
    cd /mnt/vdb && dd if=/dev/urandom of=pictures bs=1M count=20 && sync
    (while true; do date >>/mnt/vda/ticks; sync; usleep 200000; done) >/dev/null 2>&1 &`);
  await backUpAndProve(lab, guest, 'full');

  say('The guest overwrites, adds, deletes with trim, and zeroes');
  // The file systems are mounted with `discard`, so a deletion is a trim.
  await guest.run(`
    cd /mnt/vda && dd if=/dev/urandom of=database bs=64k count=40 seek=100 conv=notrunc && rm archive && seq 200000 >notes && sync
    cd /mnt/vdb && dd if=/dev/zero of=pictures bs=1M count=8 seek=4 conv=notrunc && dd if=/dev/urandom of=new bs=1M count=3
    for disk in vda vdb; do cd /mnt/$disk && find . -type f ! -name ticks -exec sha256sum {} + >/tmp/sums && cp /tmp/sums SHA256SUMS; done; sync`);
  await backUpAndProve(lab, guest, 'incremental');

  await restoreAndBoot(lab);
  await showTable(lab);
  await lab.backupvm('prune', 'web01', '--keep-last', '1'); // the full that it removes is needed: it is merged
  await lab.backupvm('verify', 'web01', '--level', 'content');
  showNext(lab);
  if (keep) await waitForInterrupt();
}

/** One backup, and its proof. */
async function backUpAndProve(lab: Lab, guest: Guest, name: string): Promise<void> {
  const proof = join(lab.directory, `proof-${name}`);
  await mkdir(proof);
  const checksums = new Map<string, { path: string; checksum: string }[]>();
  for (const { target } of disks) checksums.set(target, await checksumsInGuest(guest, target));
  const images = disks.map(({ target }) => ({
    target,
    image: join(lab.directory, 'machines', `web01.${target}.qcow2`),
  }));
  await witnessed(guest, images, proof, () => lab.backupvm('backup', 'web01'));

  const database = openDatabase({ connectionString: lab.databaseUrl }, () => undefined);
  try {
    for (const disk of await latestDisks(database.db)) {
      const restored = join(proof, `${disk.target}.restored`);
      await compareWithWitness(
        join(lab.directory, 'repository', disk.path),
        join(proof, `${disk.target}.raw`),
        restored,
      );
      const files = checksums.get(disk.target) ?? [];
      for (const { path, checksum } of files) {
        const found = await checksumInImage(restored, path, join(proof, 'file'));
        if (found !== checksum) throw new Error(`${path} on ${disk.target} has another checksum than in the guest`);
      }
      say(
        `Proven: ${disk.target} of the ${name} restores to the same ${formatBytes(disk.sizeBytes)}, and its ${files.length} file(s) check out`,
      );
    }
  } finally {
    await database.close();
  }
  await rm(proof, { recursive: true });
}

/** The last restore point as a VM beside the one that it was taken of, which runs on. */
async function restoreAndBoot(lab: Lab): Promise<void> {
  const directory = join(lab.directory, 'restored');
  await mkdir(directory);
  const consoleLog = join(lab.directory, 'machines', 'web01-copy.console.log'); // as web01's, under its own name
  const copy = attachToGuest('web01-copy', consoleLog);
  undo.push(() => copy.destroy());
  await lab.backupvm('restore', 'web01', '--as-vm', 'web01-copy', '--to', directory, '--start');
  say('Booting web01-copy beside web01; it checks its files itself, and says so on its console');
  await copy.waitUntilReady();
  const said = await readFile(consoleLog, 'utf8');
  const lines = said.split(/\r?\n/);
  for (const line of lines.filter((text) => text.startsWith('./'))) console.log(`           web01-copy says: ${line}`);
  for (const { target } of disks) {
    if (!lines.includes(`GUEST-FILES-GOOD /mnt/${target}/SHA256SUMS`)) {
      throw new Error(
        `Expected web01-copy to find its files on ${target} as they were, its console says: ${said.slice(-2000)}`,
      );
    }
  }
  say('Proven: the restored VM runs beside the old one, and found all its files as they were');
}

async function latestDisks(db: Database) {
  const [latest] = await listJobs(db, { vm: 'web01', status: 'complete', limit: 1 });
  if (!latest) throw new Error('Expected a restore point of web01, found none');
  return listDisks(db, latest.job.id);
}

async function showTable(lab: Lab): Promise<void> {
  const database = openDatabase({ connectionString: lab.databaseUrl }, () => undefined);
  try {
    const jobs = await listJobs(database.db, { vm: 'web01', status: 'complete', limit: 10 });
    const rows: string[][] = [];
    for (const { job } of jobs.toReversed()) {
      for (const disk of await listDisks(database.db, job.id)) {
        const tookMs = (disk.finishedAt?.getTime() ?? 0) - (disk.startedAt?.getTime() ?? 0);
        rows.push([
          disk.target,
          disk.type,
          disk.reason,
          formatBytes(disk.sizeBytes),
          formatBytes(disk.changedBytes),
          formatBytes(disk.writtenBytes),
          `${(tookMs / 1000).toFixed(1)} s`,
        ]);
      }
    }
    const headings = ['DISK', 'TYPE', 'REASON', 'SIZE', 'CHANGED', 'WRITTEN', 'TIME'];
    console.log(
      `\n${formatTable(headings, rows, { right: ['SIZE', 'CHANGED', 'WRITTEN', 'TIME'], colours: false })}\n`,
    );
  } finally {
    await database.close();
  }
}

function showNext(lab: Lab): void {
  const start = `${lab.temporalCommand} workflow start --type BackupVM --task-queue backupvm --workflow-id backup-vm/web01 --input '{"vm":"web01"}'`;
  console.log(`\nWeb UI: ${lab.uiUrl}${keep ? '' : ' (gone in a moment; with `npm run demo -- --keep` it stays)'}`);
  const source = keep ? `. ${lab.envFile}` : 'with the file that `npm run demo -- --keep` names, as `. FILE`';
  console.log(`To try next, in another terminal: ${source}`);
  for (const command of [start, 'npx backupvm point list', 'npx backupvm backup web01 --type full'])
    console.log(`  ${command}`);
  console.log();
}

async function waitForInterrupt(): Promise<void> {
  say('Everything stays until Ctrl-C');
  const stopWaiting = new AbortController();
  await Promise.race([once(process, 'SIGINT', stopWaiting), once(process, 'SIGTERM', stopWaiting)]);
  stopWaiting.abort();
}
