import { basename, dirname, join } from 'node:path';
import { open, rename, rm } from './file-system.js';

/** Makes a file's content survive a power cut. */
export async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes a directory's entries survive a power cut: a file's fsync does not cover its name. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Where a file is written before it has its name. */
export function draftPath(path: string): string {
  return join(dirname(path), `.${basename(path)}.draft`);
}

/** Writes a whole file so that at any moment either the old one or the new one is there. Safe to repeat. */
export async function replaceFile(path: string, content: string): Promise<void> {
  const draft = await writeDraft(path, content);
  await rename(draft, path);
  await syncDirectory(dirname(path));
}

/** Writes a whole file under the name of its draft, durably. Safe to repeat. @returns the draft's path */
export async function writeDraft(path: string, content: string): Promise<string> {
  const draft = draftPath(path);
  await rm(draft, { force: true }); // of an attempt that died
  const file = await open(draft, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await syncDirectory(dirname(path));
  return draft;
}
