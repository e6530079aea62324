import { createHash } from 'node:crypto';
import { z } from 'zod';
import { BackupError } from '../../domain/errors.js';
import { withFileIdentity } from '../../qemu/file-identity.js';
import { changeIdPrefix, type SourceDisk, type VMState } from '../source.js';
import type { QMPClient } from './client.js';

const bitmap = z.object({
  name: z.string().default(''),
  recording: z.boolean(),
  persistent: z.boolean(),
  inconsistent: z.boolean().default(false),
});
const namedNodes = z.array(
  z.object({
    'node-name': z.string(),
    drv: z.string(),
    ro: z.boolean(),
    file: z.string(),
    image: z.object({
      'virtual-size': z.number(),
      snapshots: z.array(z.object({ name: z.string() })).default([]),
      'format-specific': z.object({ data: z.object({ compat: z.string().optional() }) }).optional(),
      encrypted: z.boolean().default(false),
      'backing-filename': z.string().optional(),
      'full-backing-filename': z.string().optional(),
    }),
    'dirty-bitmaps': z.array(bitmap).default([]),
  }),
);
const blockExports = z.array(z.object({ id: z.string(), 'node-name': z.string() }));
const blockDevices = z.array(
  z.object({
    device: z.string(),
    qdev: z.string().optional(),
    removable: z.boolean(),
    inserted: z.object({ 'node-name': z.string(), ro: z.boolean() }).optional(),
  }),
);

export type BlockNode = z.infer<typeof namedNodes>[number];

/** The block layer of one QEMU process, at one moment. */
export interface BlockGraph {
  nodes: BlockNode[];
  exports: z.infer<typeof blockExports>;
  devices: z.infer<typeof blockDevices>;
  jobIds: string[];
}

/** Reads what nodes, exports, devices and jobs there are. */
export async function readGraph(qmp: QMPClient): Promise<BlockGraph> {
  return {
    nodes: namedNodes.parse(await qmp.execute('query-named-block-nodes', { flat: true })),
    exports: blockExports.parse(await qmp.execute('query-block-exports')),
    devices: blockDevices.parse(await qmp.execute('query-block')),
    jobIds: z
      .array(z.object({ id: z.string() }))
      .parse(await qmp.execute('query-jobs'))
      .map(({ id }) => id),
  };
}

/** A disk of the VM and the node that holds it; `node` is missing where there is nothing to back up. */
export interface Disk extends Omit<SourceDisk, 'identity'> {
  node: BlockNode | undefined;
}

/**
 * The VM's disks. qemu-system says what it shows its guest. qemu-storage-daemon has no guest: there the disks are the
 * nodes that it exports for writing.
 */
export function disksOf(graph: BlockGraph): Disk[] {
  const shown = graph.devices.filter(({ device, qdev }) => device !== '' || qdev);
  if (shown.length > 0) {
    return shown.map(({ device, qdev, removable, inserted }) => {
      const node = inserted && nodeUnderFilter(graph, inserted['node-name']);
      const own = node && !node['node-name'].startsWith('#') ? node['node-name'] : undefined; // QEMU made up a name with #
      const isReadOnly = inserted?.ro ? (removable ? 'CD-ROM' : 'read-only') : null;
      return describe(graph, device || own || qdev || '', inserted ? isReadOnly : 'no medium', node);
    });
  }
  const exported = graph.exports.filter(({ id }) => !isOurs(id)).map((one) => nodeUnderFilter(graph, one['node-name']));
  return [...new Set(exported)].flatMap((node) =>
    node && !node.ro ? [describe(graph, node['node-name'], null, node)] : [],
  );
}

function describe(graph: BlockGraph, key: string, skipReason: string | null, node: BlockNode | undefined): Disk {
  const isUsable = node !== undefined && skipReason === null;
  return {
    key,
    target: key,
    sizeBytes: isUsable ? node.image['virtual-size'] : 0,
    // Files of the older version (compat 0.10) have no room for bitmaps.
    tracksChanges: isUsable && node.drv === 'qcow2' && node.image['format-specific']?.data.compat !== '0.10',
    isEncrypted: isUsable && isEncrypted(graph.nodes, node),
    skipReason: node ? skipReason : (skipReason ?? 'no medium'),
    node,
  };
}

/** See `SourceDisk.identity`. */
export async function identityOf({ file }: BlockNode, signal: AbortSignal): Promise<string> {
  const path = file.startsWith('json:') ? innermostFile(JSON.parse(file.slice('json:'.length))) : file;
  return path.startsWith('/') ? withFileIdentity(file, path, signal) : file;
}

/** QEMU says `json:{…}` where a name does not say all: the layers, one in the other. */
function innermostFile(options: unknown): string {
  const { data } = z.object({ file: z.unknown(), filename: z.string() }).partial().safeParse(options);
  return data?.filename ?? (data?.file === undefined ? '' : innermostFile(data.file));
}

/** Whether QEMU decrypts what it reads: in this node, in a layer below it, which its name then tells, or in one that it is based on. */
function isEncrypted(nodes: readonly BlockNode[], { drv, file, image }: BlockNode): boolean {
  if (drv === 'luks' || image.encrypted || /"driver": "luks"/.test(file)) return true;
  const backingName = image['full-backing-filename'] ?? image['backing-filename'];
  const backing = nodes.find((node) => node.file === backingName && node.file !== file);
  return backing !== undefined && isEncrypted(nodes, backing);
}

/** While a snapshot is open, its filter stands between the guest and the disk. */
function nodeUnderFilter(graph: BlockGraph, name: string): BlockNode | undefined {
  const isWanted = isOurs(name)
    ? (node: BlockNode) => !isOurs(node['node-name']) && name.endsWith(`-${shortHash(node['node-name'], 8)}-f`)
    : (node: BlockNode) => node['node-name'] === name;
  return graph.nodes.find(isWanted);
}

const ourNames = /^bvm-[0-9a-f]{12}-/;

/** Whether a node, job or export was made for a snapshot. */
export function isOurs(name: string): boolean {
  return ourNames.test(name);
}

/** What all names of one snapshot start with. A hash, because QEMU allows 31 characters, and a snapshot id has 36. */
export function prefixOf(snapshotId: string): string {
  return `bvm-${shortHash(snapshotId, 12)}-`;
}

/** The names that a snapshot gives to what it makes for one disk: the same on each attempt, so that leftovers are found. */
export function namesFor(snapshotId: string, node: BlockNode) {
  const disk = shortHash(node['node-name'], 8);
  const stem = prefixOf(snapshotId) + disk;
  return {
    scratch: `${stem}-s`,
    job: `${stem}-j`,
    filter: `${stem}-f`,
    export: `${stem}-e`,
    scratchFile: `${disk}.qcow2`,
  };
}

/**
 * The bitmap that a change id has in a disk's image. It travels inside the image, so it says which disk that was: no other disk
 * can take it for its own.
 */
export function bitmapName(changeId: string, diskKey: string): string {
  return `${changeId}-${shortHash(diskKey, 8)}`;
}

/** All change ids whose bitmaps the images have: see `Source.listChangeIds`. */
export function changeIdsIn({ nodes }: BlockGraph): string[] {
  const names = nodes.flatMap((node) => node['dirty-bitmaps'].filter(({ persistent }) => persistent));
  const ids = names.flatMap(({ name }) => /^(.+)-[0-9a-f]{8}$/.exec(name)?.[1] ?? []);
  return [...new Set(ids.filter((id) => id.startsWith(changeIdPrefix)))];
}

function shortHash(text: string, length: number): string {
  return createHash('sha256').update(text).digest('hex').slice(0, length);
}

/** The state of the process behind the socket; a storage daemon has no guest that could be paused. */
export async function readState(qmp: QMPClient): Promise<{ state: VMState; isIOError: boolean }> {
  const answer = await optional(qmp, 'query-status');
  if (answer === undefined) return { state: 'running', isIOError: false };
  const { status } = z.object({ status: z.string() }).parse(answer);
  const states: Record<string, VMState> = { running: 'running', shutdown: 'shut off', 'internal-error': 'other' };
  return { state: states[status] ?? 'paused', isIOError: status === 'io-error' };
}

/** The UUID of the VM, or undefined where it has none: a storage daemon, or a VM started without one. */
export async function readUUID(qmp: QMPClient): Promise<string | undefined> {
  const answer = await optional(qmp, 'query-uuid');
  if (answer === undefined) return undefined;
  const uuid = z.object({ UUID: z.string() }).parse(answer).UUID;
  return /[1-9a-f]/i.test(uuid) ? uuid : undefined;
}

async function optional(qmp: QMPClient, command: string): Promise<unknown> {
  try {
    return await qmp.execute(command);
  } catch (error) {
    if (error instanceof BackupError && error.details?.class === 'CommandNotFound') return undefined;
    throw error;
  }
}
