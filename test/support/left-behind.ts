import { readdir, readFile } from 'node:fs/promises';
import { relative, join } from 'node:path';
import { expect } from 'vitest';
import { hashesFilePath } from '../../src/domain/names.js';
import type { World } from './world.js';

/**
 * The end state after anything: no process of ours, no lease, no running job, no file that no restore point needs, and every
 * restore point's files there.
 */
export async function expectNothingLeftBehind(world: World): Promise<void> {
  const { pool } = world.database;
  const column = async (query: string) => (await pool.query<{ value: string }>(query)).rows.map(({ value }) => value);
  const sealed = await column(
    `select d.path as value from backup_disks d join backup_jobs j on j.id = d.job_id where j.status = 'complete'`,
  );
  const found = {
    processes: await ownProcesses(world),
    leases: await column(`select port::text as value from nbd_exports`),
    openJobs: await column(`select id::text as value from backup_jobs where status in ('running', 'aborting')`),
    unfinished: await column(`select attempt_path as value from backup_disks where attempt_path is not null`),
    files: (await filesBelow(world.repository.path)).filter((file) => /\.(qcow2|partial|hashes|draft)$/.test(file)),
    scratch: await filesBelow(world.config.scratchDir),
    run: await filesBelow(world.config.runDir),
  };
  expect(found).toEqual({
    processes: [],
    leases: [],
    openJobs: [],
    unfinished: [],
    files: sealed.flatMap((file) => [file, hashesFilePath(file)]).sort(),
    scratch: [],
    run: [],
  });
}

/** Command lines of programs that serve or copy for this world. */
export async function ownProcesses(world: World): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const raw = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '');
    const commandLine = raw.replaceAll('\0', ' ').replaceAll('%2F', '/').trim();
    const isOurs =
      /^\S*(qemu-nbd|nbdcopy|nbdkit|setpriv) |^\S*node .*\/hasher\./.test(commandLine) &&
      commandLine.includes(world.directory);
    if (isOurs && !commandLine.includes('qemu-storage-daemon')) found.push(commandLine);
  }
  return found;
}

async function filesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .sort();
}
