import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { expect } from 'vitest';
import type { RestoreVMRequest } from '../../src/domain/restore-input.js';
import type { RestoreVMResult } from '../../src/domain/restore-result.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { firstDifference, restore } from './content.js';
import { keptNames } from './kept.js';
import type { Lab } from './lab.js';

export type RestoreHandle = WorkflowHandle<() => Promise<RestoreVMResult>>;
let count = 0;

/** Starts a RestoreVM; each has an id of its own, as people would choose it. */
export async function startRestore(
  { client }: Pick<Lab, 'client'>,
  input: RestoreVMRequest,
  workflowId = `restore-vm/${input.vm ?? input.point ?? ''}/${(count += 1)}`,
): Promise<RestoreHandle> {
  return client.workflow.start<(input: RestoreVMRequest) => Promise<RestoreVMResult>>('RestoreVM', {
    taskQueue: mainQueue,
    workflowId,
    args: [input],
  });
}

export async function restoreVM(lab: Pick<Lab, 'client'>, input: RestoreVMRequest): Promise<RestoreVMResult> {
  return (await startRestore(lab, input)).result();
}

/** What a restore fails with. */
export async function refusalOf(
  lab: Pick<Lab, 'client'>,
  input: RestoreVMRequest,
): Promise<{ type: string; message: string }> {
  return (await startRestore(lab, input)).result().then(
    () => expect.fail('expected the restore to fail, found it complete'),
    (error: unknown) => (error as { cause: { type: string; message: string } }).cause,
  );
}

/** A restored file holds what `expected`, a raw image, holds: every byte, and no more. */
export async function expectContent(
  disk: { path: string; format: 'qcow2' | 'raw' },
  expected: string,
  scratch: string,
): Promise<void> {
  if (disk.format === 'qcow2') await restore(disk.path, scratch);
  const file = disk.format === 'qcow2' ? scratch : disk.path;
  expect(await firstDifference(file, expected), `first differing byte of ${disk.path}`).toBeUndefined();
}

/** What a file takes on its file system. */
export async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}

/**
 * Nothing of a restore is left: no lease, no row, no process, and in this directory no file but these. A replaced disk that is kept is
 * no leftover as long as its row knows it.
 */
export async function expectNoRestoreLeft(lab: Lab, directory: string, files: string[] = []): Promise<void> {
  const kept = await keptNames(lab, directory);
  const rows = async (table: string) => (await lab.database.pool.query<object>(`select * from ${table}`)).rows;
  expect({
    leases: await rows('chain_leases'),
    restores: await rows('restores'),
    disks: await rows('restore_disks'),
    files: (await readdir(directory)).filter((name) => !kept.includes(name)).sort(),
    writers: await writersTo(directory),
  }).toEqual({ leases: [], restores: [], disks: [], files: files.sort(), writers: [] });
}

/** Command lines of processes that write to, or read from, a file below a directory. */
export async function writersTo(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const commandLine = (await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ');
    if (commandLine.includes(`${directory}/`) && /qemu-img|hasher/.test(commandLine)) found.push(commandLine);
  }
  return found;
}

/** Makes a directory where the lab's host allows restores. */
export async function targetDirectory({ directory }: Pick<Lab, 'directory'>, name: string): Promise<string> {
  const path = join(directory, 'restores', name);
  await mkdir(path, { recursive: true });
  return path;
}
