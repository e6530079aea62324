import { z } from 'zod';
import { messageOf } from '../domain/message-of.js';
import { draftPath, replaceFile } from './durable.js';
import { readFile } from './file-system.js';
import { removeFile } from './files.js';

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

/** Writes a restore point's manifest, durably. Safe to repeat. */
export async function writeManifest(path: string, content: Manifest): Promise<void> {
  await replaceFile(path, `${JSON.stringify(content, null, 2)}\n`);
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

/** Removes a manifest that was written for a restore point that never came to be. Safe to repeat. */
export async function removeManifest(path: string): Promise<void> {
  await removeFile(draftPath(path));
  await removeFile(path);
}
