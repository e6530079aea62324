import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { eq } from 'drizzle-orm';
import type { HostDependencies } from '../../src/activities/dependencies.js';
import { requireCurrent } from '../../src/activities/repository-epoch.js';
import { getJobRows } from '../../src/activities/job-rows.js';
import { manifestEntry, pointManifest } from '../../src/activities/point-manifest.js';
import { acquireChainLease } from '../../src/db/chain-leases.js';
import { findOrCreateContext, listHeads, type Context } from '../../src/db/contexts.js';
import type { Database } from '../../src/db/database.js';
import { getDisk, listDisks, planDisks, recordAttempt, recordCopied } from '../../src/db/disks.js';
import { addHypervisor } from '../../src/db/hypervisors.js';
import { recordCleanUp, sealJob, type SealedDisk } from '../../src/db/jobs.js';
import { addRepository } from '../../src/db/repositories.js';
import { backupDisks } from '../../src/db/schema.js';
import { diskFilePath, hashesFilePath, manifestPath } from '../../src/domain/names.js';
import { writeBlockHashes } from '../../src/hashes/hash-disk.js';
import { runOrThrow } from '../../src/process/run.js';
import { readMachineId } from '../../src/process/machine-id.js';
import { createImage } from '../../src/qemu/qemu-img.js';
import { fileChecksum, fileFacts } from '../../src/repository/files.js';
import { createMarker } from '../../src/repository/marker.js';
import { publishManifest } from '../../src/repository/manifest.js';
import { changeIdOf, type Source } from '../../src/sources/source.js';
import { imageFiles, parentOf } from './image-files.js';
import { namespaceOf, startJob } from './job.js';

const signal = new AbortController().signal;

/** What a guest does to a disk between two restore points. */
export type Change =
  | { kind: 'write'; offset: number; length: number; pattern: number }
  | { kind: 'zero'; offset: number; length: number }
  | { kind: 'grow'; sizeBytes: number };

/** A repository with restore points of one VM, made without a VM: real files, real rows. */
export interface Chains {
  root: string;
  context: Context;
  dependencies: HostDependencies;
  /** Change ids that the hypervisor was told to forget. */
  forgotten: string[];
  /** Seals a restore point of these disks, each as an incremental of its head where it has one, unless it is to be a full. */
  addPoint: (changes: Record<string, readonly Change[]>, options?: { full?: boolean }) => Promise<string>;
  /** The size of a disk at its newest restore point; 0 where there is none. */
  headBytes: (key: string) => Promise<number>;
  /** What each disk of each restore point must read. */
  expected: Map<string, Map<string, Buffer>>;
  takeLease: () => Promise<string>;
  close: () => Promise<void>;
}

export interface ChainsOptions {
  /** With block hashes beside each file: costs a process for each. */
  hashes?: boolean;
  source?: Partial<Source>;
  /** Where its repository is made; default: the machine's directory for temporary files. */
  directory?: string;
}

let count = 0;

export async function createChains(
  db: Database,
  { hashes = false, source = {}, directory = tmpdir() }: ChainsOptions = {},
): Promise<Chains> {
  const root = await mkdtemp(join(directory, 'backupvm-chains-'));
  const name = `chains${(count += 1)}`;
  const { id } = await createMarker(root, name);
  const { id: repositoryId } = await addRepository(db, { id, name, host: 'h', path: root });
  const { id: hypervisorId } = await addHypervisor(db, { name, kind: 'qmp', uri: `qmp:///${name}`, host: 'h' });
  const context = await findOrCreateContext(db, { hypervisorId, repositoryId, vmId: name, vmName: name });
  const expected: Chains['expected'] = new Map();
  const forgotten: string[] = [];

  async function addPoint(changes: Record<string, readonly Change[]>, { full = false } = {}): Promise<string> {
    const job = await startJob(db, { contextId: context.id });
    const contents = new Map<string, Buffer>();
    const sealed: SealedDisk[] = [];
    for (const [key, steps] of Object.entries(changes)) {
      const newest = await findHead(key);
      const head = full ? undefined : newest;
      const content = applyChanges(newest?.content ?? Buffer.alloc(0), steps);
      contents.set(key, content);
      const path = diskFilePath(context.directory, key, job.pointTime);
      const type = head ? 'incremental' : 'full';
      const known = { key, target: key, identity: key, sizeBytes: content.length };
      const plan = { ...known, type, parentId: head?.diskId ?? null } as const;
      const rows = await planDisks(db, job, [{ ...plan, reason: 'requested', baseChangeId: null, path }]);
      const disk = rows.find(({ diskKey }) => diskKey === key);
      if (!disk) throw new Error('no disk');
      await writeImage(join(root, path), head ? join(root, await parentPath(head.diskId)) : undefined, steps, content);
      await db
        .update(backupDisks)
        .set({ changeId: changeIdOf(job.id) })
        .where(eq(backupDisks.id, disk.id));
      await recordAttempt(db, disk.id, { attemptPath: `${path}.partial`, nbdPort: 10_001 });
      await recordCopied(db, disk.id, { changedBytes: 1, writtenBytes: 1 });
      sealed.push({ diskId: disk.id, ...(await finish(path, head?.diskId)) });
    }
    await sealJob(db, { id: job.id, snapshotId: undefined }, sealed);
    await recordCleanUp(db, job.id, null);
    await writePointManifest(job.id, job.pointTime);
    await requireCurrent(db, { id: repositoryId, path: root });
    expected.set(job.id, contents);
    return job.id;
  }

  async function findHead(key: string): Promise<{ diskId: string; content: Buffer } | undefined> {
    const head = (await listHeads(db, context.id)).find(({ diskKey }) => diskKey === key);
    if (!head) return undefined;
    const { id: diskId, jobId } = await getDisk(db, head.diskId);
    const content = expected.get(jobId)?.get(key);
    if (!content) throw new Error(`no content of ${jobId}`);
    return { diskId, content };
  }

  async function parentPath(diskId: string): Promise<string> {
    return (await getDisk(db, diskId)).path;
  }

  async function finish(path: string, parentId: string | undefined): Promise<Omit<SealedDisk, 'diskId'>> {
    const file = join(root, path);
    const facts = await fileFacts(file);
    if (!facts) throw new Error(`no file ${file}`);
    const hashesFile = hashesFilePath(file);
    const parent = parentId === undefined ? undefined : await getDisk(db, parentId);
    const parentHashes = parent && {
      path: hashesFilePath(join(root, parent.path)),
      checksum: parent.hashesChecksum ?? '',
    };
    const files = await imageFiles(file);
    if (hashes) await writeBlockHashes({ files, format: 'qcow2', hashesFile, parentHashes, signal });
    const hashesChecksum = hashes ? await fileChecksum(hashesFile, signal) : 'sha256:none';
    return { checksum: await fileChecksum(file, signal), hashesChecksum, ...facts };
  }

  async function writePointManifest(jobId: string, pointTime: Date): Promise<void> {
    const entries = [];
    for (const disk of await listDisks(db, jobId)) {
      const parent = disk.parentId === null ? null : await getDisk(db, disk.parentId);
      const {
        checksum = '',
        hashesChecksum = '',
        fileBytes = 0,
      } = disk as { checksum?: string; hashesChecksum?: string; fileBytes?: number };
      entries.push(manifestEntry({ ...disk, checksum, hashesChecksum, fileBytes }, parent));
    }
    const manifest = join(root, manifestPath(context.directory, pointTime));
    await publishManifest(manifest, pointManifest(await getJobRows(db, jobId), entries));
  }

  const forgetting: Partial<Source> = {
    dropChangeIds: async (_vmId, changeIds) => void forgotten.push(...changeIds),
    ...source,
  };
  return {
    root,
    context,
    forgotten,
    expected,
    addPoint,
    headBytes: async (key) => (await findHead(key))?.content.length ?? 0,
    dependencies: {
      ...{ db, host: 'h', machineId: readMachineId(), nbdPorts: { first: 1, last: 1 }, stallTimeoutMs: 1 },
      ...{ runDir: join(root, 'run'), scratchDir: join(root, 'scratch'), restoreDirs: [] },
      createSource: () => forgetting as Source,
    },
    async takeLease() {
      const id = randomUUID();
      const lease = { id, contextId: context.id, mode: 'exclusive', purpose: 'delete' } as const;
      const holders = await acquireChainLease(db, { ...lease, workflowId: 'w', runId: id }, await namespaceOf(db));
      if (holders.length > 0) throw new Error(`Expected the lease, found ${JSON.stringify(holders)}`);
      return id;
    },
    close: () => rm(root, { recursive: true }),
  };
}

function applyChanges(before: Buffer, changes: readonly Change[]): Buffer {
  const size = changes.reduce((found, change) => (change.kind === 'grow' ? change.sizeBytes : found), before.length);
  const content = Buffer.alloc(size);
  before.copy(content);
  for (const change of changes) {
    if (change.kind === 'write') content.fill(change.pattern, change.offset, change.offset + change.length);
    if (change.kind === 'zero') content.fill(0, change.offset, change.offset + change.length);
  }
  return content;
}

async function writeImage(
  file: string,
  parent: string | undefined,
  changes: readonly Change[],
  content: Buffer,
): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  if (parent === undefined) {
    await writeFile(`${file}.raw`, content);
    await runOrThrow('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', `${file}.raw`, file], { timeoutMs: 30_000 });
    await rm(`${file}.raw`);
    return;
  }
  await createImage({ file, sizeBytes: content.length, parent: await parentOf(parent), signal });
  const commands = changes.flatMap((change) => {
    if (change.kind === 'grow') return [];
    const pattern = change.kind === 'zero' ? '-z -u' : `-P ${change.pattern}`;
    return ['-c', `write ${pattern} ${change.offset} ${change.length}`];
  });
  if (commands.length > 0) await runOrThrow('qemu-io', ['-f', 'qcow2', ...commands, file], { timeoutMs: 30_000 });
}

/** What a disk's file reads through its chain. */
export async function readDisk(file: string): Promise<Buffer> {
  const raw = join(tmpdir(), `backupvm-raw-${randomUUID()}`); // not beside it: its file system may be full
  try {
    await runOrThrow('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', file, raw], { timeoutMs: 30_000 });
    return await readFile(raw);
  } finally {
    await rm(raw, { force: true });
  }
}
