import { basename, join } from 'node:path';
import { BackupError } from '../domain/errors.js';
import type { ImageFiles } from '../qemu/image-reference.js';
import { headerReadBytes, parseQCOW2Header, type QCOW2Header } from '../qemu/qcow2-header.js';
import { errorCodeOf } from './file-errors.js';
import { realpath } from './file-system.js';
import { insideRepository } from './files.js';
import { pinFile, type PinnedFile } from './pinned-file.js';

/** A file of a chain, as the record has it. */
export interface ChainFile {
  /** Relative to the repository. */
  path: string;
  /** The file that it builds on, as its header names it; null for a full. */
  backingName: string | null;
  /** Where `use` lets something write to it: then it may change meanwhile, all but where its header leads. */
  isWritten?: boolean;
}

/** The files of a chain that the record lists: an image, and then each file that it needs, down to the full. */
export function chainFiles(disks: readonly { path: string; isWritten?: boolean }[]): ChainFile[] {
  return disks.map(({ path, isWritten = false }, index) => {
    const parent = disks[index + 1];
    return { path, isWritten, backingName: parent ? basename(parent.path) : null };
  });
}

/**
 * Calls `use` with every file of a chain open, each compared with the record first: so that what is read is what the record lists,
 * whatever the headers say, and whatever is renamed meanwhile. Looks again afterwards whether a file was touched.
 * @param use gets the names under which processes of ours open these very files; they hold as long as it runs
 * @throws BackupError PointDamaged for a file that is missing, or whose header leads elsewhere, or that was changed meanwhile
 */
export async function withPinnedChain<T>(
  root: string,
  chain: readonly ChainFile[],
  use: (files: ImageFiles) => Promise<T>,
): Promise<T> {
  const pins: Pin[] = [];
  try {
    for (const file of chain) pins.push(await pin(root, file));
    const [first, ...parents] = pins.map(({ pinned }) => pinned.path);
    if (first === undefined) throw new TypeError('Expected a chain of one file at least, found none');
    const result = await use([first, ...parents]);
    for (const pinned of pins) await requireUntouched(root, pinned);
    return result;
  } catch (error) {
    throw withRealNames(error, root, pins);
  } finally {
    for (const { pinned } of pins) await pinned.unpin();
  }
}

/** What a file's header says, or what is wrong with it as a part of its chain. Reads nothing else of it. */
export async function inspectChainFile(
  root: string,
  file: ChainFile,
): Promise<{ header: QCOW2Header } | { problem: string }> {
  const opened = await openFile(root, file);
  if ('problem' in opened) return opened;
  try {
    return await inspect(root, file, opened.pinned);
  } finally {
    await opened.pinned.unpin();
  }
}

interface Pin {
  file: ChainFile;
  pinned: PinnedFile;
  stamp: string;
}

async function pin(root: string, file: ChainFile): Promise<Pin> {
  const opened = await openFile(root, file);
  if ('problem' in opened) throw notAsRecorded(root, file, opened.problem);
  const { pinned } = opened;
  try {
    const stamp = await pinned.stamp(); // before the look, so that nothing in between goes unnoticed
    const found = await inspect(root, file, pinned);
    if ('problem' in found) throw notAsRecorded(root, file, found.problem);
    return { file, pinned, stamp };
  } catch (error) {
    await pinned.unpin();
    throw error;
  }
}

async function openFile(root: string, { path }: ChainFile): Promise<{ pinned: PinnedFile } | { problem: string }> {
  try {
    return { pinned: await pinFile(insideRepository(root, path)) };
  } catch (error) {
    const code = errorCodeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return { problem: 'it is missing' };
    if (code === 'ELOOP') return { problem: 'it is a link' };
    throw error;
  }
}

async function inspect(
  root: string,
  { path, backingName }: ChainFile,
  pinned: PinnedFile,
): Promise<{ header: QCOW2Header } | { problem: string }> {
  if (!(await pinned.isPlainFile())) return { problem: 'it is no plain file' };
  const place = await pinned.place();
  if (place.endsWith(' (deleted)')) return { problem: 'it was removed or replaced meanwhile' };
  if (place !== join(await realpath(root), path))
    return { problem: `a folder of it is a link, which leads to ${place}` };
  const header = parseQCOW2Header(await pinned.readHead(headerReadBytes));
  if (!header) return { problem: 'it has no QCOW2 header' };
  if (header.hasDataFile) return { problem: 'its header names another file for its data' };
  if (header.backingName !== backingName) {
    return { problem: `it builds on ${shown(header.backingName)}, not on ${shown(backingName)}` };
  }
  if (backingName !== null && header.backingFormat !== 'qcow2') {
    return { problem: `it reads '${backingName}' as ${header.backingFormat ?? 'a guessed format'}, not as qcow2` };
  }
  return { header };
}

const shown = (name: string | null) => (name === null ? 'nothing' : `'${name}'`);

/** Somebody who can write to a file could change its header, and change it back, between our look and QEMU's. */
async function requireUntouched(root: string, { file, pinned, stamp }: Pin): Promise<void> {
  const found = await inspect(root, file, pinned);
  if ('problem' in found) throw notAsRecorded(root, file, found.problem);
  if (!file.isWritten && (await pinned.stamp()) !== stamp)
    throw notAsRecorded(root, file, 'it was changed while it was read');
}

function notAsRecorded(root: string, { path }: ChainFile, problem: string): BackupError {
  return new BackupError(
    'PointDamaged',
    `cannot read ${path} in the repository ${root}: ${problem}; find out who changed it, and run 'backupvm verify'`,
    { details: { file: join(root, path) } },
  );
}

/** What a program said of a file under the name that it was given: people know it by another one. */
function withRealNames(error: unknown, root: string, pins: readonly Pin[]): unknown {
  if (!(error instanceof BackupError)) return error;
  const rename = (text: string) => {
    const realName = (said: string, { file, pinned }: Pin) =>
      said.replace(new RegExp(`${pinned.path}(?!\\d)`, 'g'), () => join(root, file.path));
    return pins.reduce(realName, text);
  };
  const message = rename(error.message);
  if (message === error.message) return error;
  const values = Object.entries(error.details ?? {});
  const details = Object.fromEntries(
    values.map(([key, value]) => [key, typeof value === 'string' ? rename(value) : value]),
  );
  return new BackupError(error.code, message, { cause: error.cause, details });
}
