import { readdir, readFile, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { hashesFilePath, manifestPath } from '../../src/domain/names.js';
import { fileChecksum } from '../../src/repository/files.js';
import { changeIdOf } from '../../src/sources/source.js';
import { withQMP } from '../../src/sources/qmp/client.js';
import { isOurs, readGraph } from '../../src/sources/qmp/nodes.js';
import { keptRows } from './kept.js';
import type { Lab } from './lab.js';

/** What must not be there when nothing runs. Each list is empty then. */
export interface Leftovers {
  /** Command lines of qemu-nbd, nbdcopy, nbdkit, nbdinfo and the hasher that work for this lab. A zombie is dead. */
  processes: string[];
  leases: string[];
  /** Leases on restore points, and the journals of restores and merges that hang on them. */
  chainLeases: string[];
  /** Unix sockets in the run directory on which a process listens. */
  openSockets: string[];
  /** Nodes, exports, jobs and bitmaps at the source, but not the bitmaps that the next incrementals start from. */
  source: string[];
  /** Not closed, or not cleaned up. */
  openJobs: string[];
  /** Tombstones of restore points whose files were to go, and disks that are marked as damaged. */
  tombstones: string[];
  damageMarks: string[];
  /** Rows that still speak of an unfinished file. */
  unfinished: string[];
  /** Files that no restore point has. */
  strayFiles: string[];
  /** Replaced disks under the name that they are kept by, and no row knows them. With a row they are no leftovers. */
  keptWithoutRow: string[];
  scratch: string[];
  run: string[];
  /** What libnbd made in /tmp since this lab was made, and did not live to remove. */
  temporary: string[];
}

/** What a restore point lacks. */
export interface Damage {
  missingFiles: string[];
  /** Files whose checksum is not the one that was sealed. */
  changedFiles: string[];
}

/** Looks at processes, rows, sockets, files, and at the VMs of the QMP hypervisor that run. */
export async function findLeftovers(lab: Lab): Promise<Leftovers> {
  const { config, repository } = lab;
  const column = (query: string) => readColumn(lab, query);
  const sealed = new Set(await sealedFiles(lab));
  const files = await filesBelow(repository.path);
  return {
    processes: (await ownProcesses(lab)).map(({ commandLine }) => commandLine),
    leases: await column(`select port || ' of ' || export_name as value from nbd_exports`),
    chainLeases: await column(
      `select purpose || ' of ' || workflow_id as value from chain_leases
       union all select 'restore ' || lease_id from restores union all select 'merge ' || id from merges`,
    ),
    openSockets: await listeningSockets(config.runDir),
    source: await sourceLeftovers(lab),
    openJobs: await column(
      `select id || ' ' || status as value from backup_jobs where status in ('running', 'aborting') or clean_up = 'pending'`,
    ),
    tombstones: await column(`select id::text as value from backup_jobs where status = 'deleting'`),
    damageMarks: await column(`select path || ': ' || damage as value from backup_disks where damage is not null`),
    unfinished: await column(`select attempt_path as value from backup_disks where attempt_path is not null`),
    strayFiles: files.filter((file) => isBackupFile(file) && !sealed.has(file)),
    keptWithoutRow: await keptWithoutRow(lab),
    scratch: await filesBelow(config.scratchDir),
    run: await filesBelow(config.runDir),
    temporary: await temporaryDirectories(lab),
  };
}

/** Reads every file of every restore point. */
export async function findDamage(lab: Lab): Promise<Damage> {
  const { rows } = await lab.database.pool.query<{ path: string; checksum: string; hashesChecksum: string }>(
    `select d.path, d.checksum, d.hashes_checksum as "hashesChecksum" from backup_disks d join backup_jobs j on j.id = d.job_id where j.status = 'complete'`,
  );
  const damage: Damage = { missingFiles: [], changedFiles: [] };
  const sealed = rows.flatMap(({ path, checksum, hashesChecksum }) => [
    { path, checksum },
    { path: hashesFilePath(path), checksum: hashesChecksum },
  ]);
  for (const { path, checksum } of sealed) {
    const file = join(lab.repository.path, path);
    const found = await fileChecksum(file, AbortSignal.timeout(60_000)).catch(() => undefined);
    if (found === undefined) damage.missingFiles.push(path);
    else if (found !== checksum) damage.changedFiles.push(path);
  }
  const present = new Set(await filesBelow(lab.repository.path));
  damage.missingFiles.push(...(await sealedFiles(lab)).filter((file) => file.endsWith('.json') && !present.has(file)));
  return damage;
}

export interface OwnProcess {
  pid: number;
  program: string;
  commandLine: string;
}

/** Programs that serve or copy for this lab. */
export async function ownProcesses({ directory }: Pick<Lab, 'directory'>): Promise<OwnProcess[]> {
  const found: OwnProcess[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const raw = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => ''); // empty for a zombie
    const commandLine = raw.replaceAll('\0', ' ').replaceAll('%2F', '/').trim();
    const program = /^\S*(?:(qemu-nbd|nbdcopy|nbdkit|nbdinfo|setpriv) |node .*\/(hasher)\.[jt]s )/
      .exec(commandLine)
      ?.slice(1)
      .find(Boolean);
    if (program === undefined || !commandLine.includes(directory)) continue;
    if (!commandLine.includes('qemu-storage-daemon')) found.push({ pid: Number(entry), program, commandLine });
  }
  return found;
}

async function temporaryDirectories({ directory }: Lab): Promise<string[]> {
  const { birthtimeMs } = await stat(directory);
  const names = (await readdir('/tmp')).filter((name) => name.startsWith('libnbd'));
  const isNew = async (name: string) =>
    ((await stat(join('/tmp', name)).catch(() => undefined))?.birthtimeMs ?? 0) > birthtimeMs;
  const areNew = await Promise.all(names.map(isNew));
  return names.filter((_, index) => areNew[index]);
}

async function readColumn(lab: Lab, query: string): Promise<string[]> {
  return (await lab.database.pool.query<{ value: string }>(query)).rows.map(({ value }) => value);
}

/** The images of restore points, the block hashes beside them, and the manifest that stands for each. */
async function sealedFiles(lab: Lab): Promise<string[]> {
  const images = await readColumn(
    lab,
    `select d.path as value from backup_disks d join backup_jobs j on j.id = d.job_id where j.status = 'complete'`,
  );
  const { rows } = await lab.database.pool.query<{ directory: string; pointTime: Date }>(
    `select c.directory, j.point_time as "pointTime" from backup_jobs j join vm_backup_contexts c on c.id = j.context_id
     where j.status = 'complete'`,
  );
  const hashes = images.map(hashesFilePath);
  return [...images, ...hashes, ...rows.map(({ directory, pointTime }) => manifestPath(directory, pointTime))];
}

async function keptWithoutRow(lab: Lab): Promise<string[]> {
  const known = new Set((await keptRows(lab)).map(({ keptPath }) => keptPath));
  const files = (await filesBelow(lab.directory)).filter((file) => /(^|\/)\.[^/]*\.before$/.test(file));
  return files.map((file) => join(lab.directory, file)).filter((file) => !known.has(file));
}

const isBackupFile = (file: string) => !/(^|\/)(\.backupvm-|filler|lost\+found)/.test(file);

async function listeningSockets(directory: string): Promise<string[]> {
  const lines = (await readFile('/proc/net/unix', 'utf8')).split('\n').slice(1);
  const fields = lines.map((line) => line.trim().split(/\s+/));
  const acceptsConnections = '00010000'; // the kernel's flag of a socket that listens
  const paths = fields.filter((one) => one[3] === acceptsConnections).map((one) => one[7] ?? '');
  return paths.filter((path) => path.startsWith(`${directory}/`));
}

async function sourceLeftovers(lab: Lab): Promise<string[]> {
  const machines = join(lab.directory, 'machines');
  const heads = await readColumn(
    lab,
    `select distinct change_id as value from backup_disks where is_head and change_id is not null`,
  );
  const found: string[] = [];
  for (const socket of (await readdir(machines)).filter((file) => file.endsWith('.qmp'))) {
    const graph = await withQMP(join(machines, socket), AbortSignal.timeout(30_000), readGraph).catch(() => undefined);
    if (!graph) continue; // it does not run
    const bitmaps = graph.nodes.flatMap((node) => node['dirty-bitmaps'].map(({ name }) => name));
    const names = [
      ...graph.nodes.map((node) => node['node-name']),
      ...graph.exports.map(({ id }) => id),
      ...graph.jobIds,
    ];
    const isHead = (name: string) => heads.some((changeId) => name.startsWith(`${changeId}-`));
    const stray = bitmaps.filter((name) => isOurs(name) || (name.startsWith(changeIdOf('')) && !isHead(name)));
    found.push(...[...names.filter(isOurs), ...stray].map((name) => `${socket}: ${name}`));
  }
  return found;
}

export async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort();
}
