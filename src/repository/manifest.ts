import { z } from 'zod';
import { messageOf } from '../domain/message-of.js';
import { BackupError } from '../domain/errors.js';
import { draftPath, replaceFile, writeDraft } from './durable.js';
import { readFile } from './file-system.js';
import { fileFacts, giveName, removeFile } from './files.js';

const sizeInBytes = z.int().nonnegative();
const checksum = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const path = z.string().min(1);

const disk = z.strictObject({
  id: z.uuid(),
  key: z.string(),
  target: z.string(),
  /** What the disk stood on, as the hypervisor's connector says it. Only compared with the next one. */
  identity: z.string(),
  type: z.enum(['full', 'incremental']),
  reason: z.string(),
  /** The backup disk that this one's file points to, and its path. Null for a full. */
  parent: z.strictObject({ id: z.uuid(), path }).nullable(),
  /** Relative to the repository, as all paths here. */
  path,
  sizeBytes: sizeInBytes.positive(),
  /** Whether the VM's disk was encrypted. The file here is not. */
  wasEncrypted: z.boolean(),
  fileBytes: sizeInBytes,
  /** `sha256:<hex>` of the file. */
  checksum,
  /** The same of the block hashes beside it. */
  hashesChecksum: checksum,
  changeId: z.string().nullable(),
});

const manifest = z.strictObject({
  format: z.literal(1),
  jobId: z.uuid(),
  contextId: z.uuid(),
  repositoryId: z.uuid(),
  /** Where the VM ran, as it was registered. */
  hypervisor: z.strictObject({
    name: z.string(),
    kind: z.enum(['libvirt', 'qmp']),
    uri: z.string(),
    host: z.string(),
  }),
  vm: z.strictObject({ id: z.string(), name: z.string() }),
  pointTime: z.iso.datetime(),
  consistency: z.enum(['application', 'filesystem', 'crash']),
  /** The VM's definition in the hypervisor's own format (domain XML), or null. */
  vmConfig: z.string().nullable(),
  disks: z.array(disk).min(1),
});

/** What stands beside the files of a restore point, so that it can be understood without our database. Sizes in bytes. */
export type Manifest = z.output<typeof manifest>;
export type ManifestDisk = z.output<typeof disk>;

const textOf = (content: Manifest) => `${JSON.stringify(content, null, 2)}\n`;

/** Writes the manifest of a restore point that is about to be sealed, durably, under the name of its draft. Safe to repeat. */
export async function draftManifest(path: string, content: Manifest): Promise<void> {
  await writeDraft(path, textOf(content));
}

/**
 * Writes the manifest of a sealed restore point under its final name, durably. One of the same point that is there stays: a merge
 * may have rewritten it. Safe to repeat.
 * @throws BackupError AlreadyExists when the manifest of another point is there
 */
export async function publishManifest(path: string, content: Manifest): Promise<void> {
  if (await fileFacts(path)) await requireManifestOf(path, content.jobId);
  else await giveName(await writeDraft(path, textOf(content)), path);
  await removeFile(draftPath(path));
}

/** Replaces the manifest of a restore point, whose files have changed. Safe to repeat. @throws BackupError AlreadyExists, as `publishManifest` */
export async function rewriteManifest(path: string, content: Manifest): Promise<void> {
  if (await fileFacts(path)) await requireManifestOf(path, content.jobId);
  await replaceFile(path, textOf(content));
}

/** One that cannot be read is taken for the point's own: there is one name for each. */
async function requireManifestOf(path: string, jobId: string): Promise<void> {
  const read = await readManifest(path);
  if ('problem' in read || read.manifest.jobId === jobId) return;
  throw new BackupError(
    'AlreadyExists',
    `cannot write the manifest of restore point ${jobId}: ${path} is the manifest of ${read.manifest.jobId}; it was left as it is`,
  );
}

/** Reads a manifest, every field of it checked. What it says may still be untrue. @returns the problem, in words, where it is none */
export async function readManifest(path: string): Promise<{ manifest: Manifest } | { problem: string }> {
  let content: unknown;
  try {
    content = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    return { problem: `cannot be read: ${messageOf(error)}` };
  }
  const parsed = manifest.safeParse(content);
  if (parsed.success) return { manifest: parsed.data };
  const problems = parsed.error.issues.map(({ path, message }) => `${path.map(String).join('.') || 'all'}: ${message}`);
  return { problem: `is not a manifest of format 1: ${problems.join('; ')}` };
}

/** Removes a manifest, and its draft. Safe to repeat. */
export async function removeManifest(path: string): Promise<void> {
  await removeFile(draftPath(path));
  await removeFile(path);
}
