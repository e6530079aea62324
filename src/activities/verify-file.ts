import { basename } from 'node:path';
import { listDisks, type BackupDisk } from '../db/disks.js';
import type { Database } from '../db/database.js';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import { hashesFilePath, manifestPath } from '../domain/names.js';
import type { VerifyLevel } from '../domain/verify-input.js';
import { tableBytes } from '../hashes/table.js';
import { checkImage } from '../qemu/qemu-img.js';
import { fileChecksum, fileFacts, insideRepository } from '../repository/files.js';
import { inspectChainFile } from '../repository/pinned-chain.js';
import { readManifest, type ManifestDisk } from '../repository/manifest.js';
import type { JobRows } from './job-rows.js';
import { manifestEntry } from './point-manifest.js';

export interface FileToVerify {
  root: string;
  disk: BackupDisk;
  parent: BackupDisk | null;
  level: VerifyLevel;
  signal: AbortSignal;
}

/** What is wrong with a file by itself; undefined when nothing is. Reads none of its parents. */
export async function findFileDamage({ root, disk, level, signal }: FileToVerify): Promise<string | undefined> {
  const file = insideRepository(root, disk.path);
  const facts = await fileFacts(file);
  if (!facts) return `${disk.path} is missing`;
  if (facts.fileBytes !== disk.fileBytes) {
    return `${disk.path} has ${facts.fileBytes} bytes, and had ${disk.fileBytes ?? 0} when it was sealed`;
  }
  if (level === 'structure') return undefined;
  const found = await orUnreadable(() => fileChecksum(file, signal));
  return found === disk.checksum ? undefined : changed(disk.path, found);
}

/** What is wrong with a file as an image on its parent, which is good; undefined when nothing is. Opens no other file. */
export async function findImageDamage({ root, disk, parent, signal }: FileToVerify): Promise<string | undefined> {
  const backingName = parent === null ? null : basename(parent.path);
  const found = await inspectChainFile(root, { path: disk.path, backingName });
  if ('problem' in found) return `${disk.path}: ${found.problem}`;
  const { sizeBytes } = found.header;
  if (sizeBytes !== disk.sizeBytes) {
    return `${disk.path} is an image of ${formatBytes(sizeBytes)} (${sizeBytes}), not of ${disk.sizeBytes}`;
  }
  try {
    await checkImage(insideRepository(root, disk.path), signal);
    return undefined;
  } catch (error) {
    if (error instanceof BackupError && error.code === 'ImageDamaged') return error.message;
    throw error;
  }
}

/** What is wrong with the block hashes beside a file. */
export async function findHashesDamage({ root, disk, level, signal }: FileToVerify): Promise<string | undefined> {
  const path = hashesFilePath(disk.path);
  const file = insideRepository(root, path);
  const facts = await fileFacts(file);
  if (!facts) return `${path} is missing`;
  const expectedBytes = tableBytes(disk.sizeBytes);
  if (facts.fileBytes !== expectedBytes) return `${path} has ${facts.fileBytes} bytes, not ${expectedBytes}`;
  if (level === 'structure') return undefined;
  const found = await orUnreadable(() => fileChecksum(file, signal));
  return found === disk.hashesChecksum ? undefined : changed(path, found);
}

/** What is wrong with the manifest of a disk's restore point, as far as it is about the point, or about this disk. */
export async function findManifestDamage(
  db: Database,
  { job, context, repository }: JobRows,
  { root, disk, parent }: FileToVerify,
): Promise<string | undefined> {
  const path = manifestPath(context.directory, job.pointTime);
  const file = insideRepository(root, path);
  // A sealed job whose clean-up is not done may have its manifest as a draft still.
  if (!(await fileFacts(file))) return job.cleanUp === 'pending' ? undefined : `${path} is missing`;
  const read = await readManifest(file);
  if ('problem' in read) return `${path} ${read.problem}`;
  const { manifest } = read;
  const expected = {
    ...{ jobId: job.id, contextId: context.id, repositoryId: repository.id, vmId: context.vmId },
    ...{ pointTime: job.pointTime.getTime(), consistency: job.consistency ?? 'crash', vmConfig: job.vmConfig },
    diskCount: (await listDisks(db, job.id)).length,
    disk: comparable(manifestEntry({ ...disk, ...sealedFacts(disk) }, parent)),
  };
  const entry = manifest.disks.find(({ id }) => id === disk.id);
  const found: typeof expected = {
    ...{ jobId: manifest.jobId, contextId: manifest.contextId, repositoryId: manifest.repositoryId },
    ...{ vmId: manifest.vm.id, pointTime: Date.parse(manifest.pointTime), consistency: manifest.consistency },
    ...{ vmConfig: manifest.vmConfig, diskCount: manifest.disks.length, disk: entry ? comparable(entry) : 'none' },
  };
  const keys = Object.keys(expected) as (keyof typeof expected)[];
  const different = keys.filter((key) => found[key] !== expected[key]);
  return different.length === 0 ? undefined : `${path} differs from the record in ${different.join(', ')}`;
}

/** A disk's part of the manifest, without its change id: that goes when the hypervisor forgets it. */
function comparable(entry: ManifestDisk): string {
  const fields = Object.entries(entry).filter(([name]) => name !== 'changeId');
  return JSON.stringify(fields.sort(([a], [b]) => a.localeCompare(b)));
}

function sealedFacts({ id, checksum, hashesChecksum, fileBytes }: BackupDisk) {
  if (checksum === null || hashesChecksum === null || fileBytes === null) {
    throw new TypeError(`Expected backup disk ${id} sealed, found no checksum`);
  }
  return { checksum, hashesChecksum, fileBytes };
}

const unreadable = 'unreadable';

function changed(path: string, found: string): string {
  return found === unreadable
    ? `${path} cannot be read: input/output error`
    : `${path} is not as it was sealed: its checksum is another one`;
}

/** A sector that cannot be read is damage; whatever else keeps a file from being read may pass. */
async function orUnreadable(read: () => Promise<string>): Promise<string> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof BackupError && /Input\/output error/i.test(error.message)) return unreadable;
    throw error;
  }
}
