import { lstat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import type { Lab } from './lab.js';

export interface KeptRow {
  id: string;
  path: string;
  keptPath: string;
  inode: string;
  keepsOn: boolean | null;
  problem: string | null;
}

/** The rows of disks that restores replaced, and that are kept. */
export async function keptRows({ database }: Pick<Lab, 'database'>): Promise<KeptRow[]> {
  const query = `select id, path, kept_path as "keptPath", inode, kept_until > now() as "keepsOn", problem from kept_disks order by path`;
  return (await database.pool.query<KeptRow>(query)).rows;
}

/** Names of the files in a directory that are kept, each with its row. A file without one, or of another inode, is not among them. */
export async function keptNames(lab: Pick<Lab, 'database'>, directory: string): Promise<string[]> {
  const names: string[] = [];
  for (const { keptPath, inode } of await keptRows(lab)) {
    if (dirname(keptPath) !== directory) continue;
    const found = await lstat(keptPath).catch(() => undefined);
    if (found && String(found.ino) === inode) names.push(basename(keptPath));
  }
  return names;
}
