import { existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { BackupError } from '../../domain/errors.js';
import { acceptedRisks, afterRisk, guestAtRisk } from '../../domain/iothread-safety.js';
import { createImage } from '../../qemu/qemu-img.js';
import { changeIdOf, type OpenSnapshot, type OpenSnapshotRequest, type SnapshotDisk } from '../source.js';
import { withQMP, type QMPClient } from './client.js';
import { warnOfSnapshots } from './internal-snapshots.js';
import { findIothreadRisk } from './iothreads.js';
import type { Machine } from './machines.js';
import {
  bitmapName,
  disksOf,
  identityOf,
  isOurs,
  namesFor,
  prefixOf,
  readGraph,
  readState,
  type BlockGraph,
  type BlockNode,
} from './nodes.js';

/** Cancelling waits for guest writes that are being copied aside; more means that the storage hangs. */
const endTimeoutMs = 60_000;

interface OpenRequest {
  machine: Machine;
  /** The snapshot's own: scratch images, and the NBD socket where the process had no server yet. */
  directory: string;
  request: OpenSnapshotRequest;
  signal: AbortSignal;
}

/** One disk of the request, with its node and the base that can be honoured. */
interface Part {
  key: string;
  node: BlockNode;
  tracksChanges: boolean;
  isEncrypted: boolean;
  base: string | null;
}

/**
 * `Source.openSnapshot` for one machine. Fleecing: before the guest overwrites a block, QEMU copies the old one to a
 * scratch image, which together with the disk is the point in time. A guest's write fails when the scratch is full.
 */
export async function openSnapshot({ machine, directory, request, signal }: OpenRequest): Promise<OpenSnapshot> {
  const { snapshotId } = request;
  if (request.quiesce === 'require') {
    throw new BackupError(
      'FreezeFailed',
      `Expected to freeze VM ${machine.name}, but a QMP hypervisor knows no guest agent; use quiesce 'auto'`,
    );
  }
  let isMaking = false;
  let risk: string | null = null;
  try {
    return await withQMP(machine.qmpPath, signal, async (qmp) => {
      const graph = await readGraph(qmp);
      refuseIfBusy(graph, machine);
      const parts = request.disks.map((disk) => partOf(graph, machine, disk));
      risk = await findIothreadRisk(
        qmp,
        parts.map(({ key }) => key),
      );
      if (risk !== null && !request.allowIothreads) throw guestAtRisk(machine.name, risk);
      isMaking = true;
      await addScratchImages(qmp, directory, snapshotId, parts, signal);
      await qmp.execute('transaction', { actions: pointInTime(snapshotId, parts) });
      const socketPath = await serveNBD(qmp, machine, directory);
      await addExports(qmp, snapshotId, parts);
      const disks = await describeParts(await readGraph(qmp), { snapshotId, machine, socketPath, signal }, parts);
      const warnings = [...warnOfSnapshots(graph, machine.name, parts), ...acceptedRisks(risk)];
      return { consistency: 'crash', warnings, vmConfig: null, disks };
    });
  } catch (error) {
    // Our connection may be gone, so with a new one. What it cannot undo now, closeSnapshot removes.
    if (isMaking) await undo(machine, directory, snapshotId).catch(() => undefined);
    throw isMaking ? afterRisk(error, risk) : error;
  }
}

function refuseIfBusy(graph: BlockGraph, machine: Machine): void {
  const names = [
    ...graph.nodes.map((node) => node['node-name']),
    ...graph.exports.map(({ id }) => id),
    ...graph.jobIds,
  ];
  const other = names.find(isOurs);
  if (other === undefined) return;
  const scratch = graph.nodes.map(({ file }) => /\/([^/"]+)\/[0-9a-f]{8}\.qcow2/.exec(file)?.[1]).find(Boolean);
  throw new BackupError(
    'SourceBusy',
    `Expected no open snapshot of VM ${machine.name}, found ${scratch ?? other}; wait until it is closed, or close it`,
    { details: { snapshotId: scratch ?? null } },
  );
}

function partOf(
  graph: BlockGraph,
  machine: Machine,
  { key, baseChangeId }: OpenSnapshotRequest['disks'][number],
): Part {
  const disks = disksOf(graph);
  const disk = disks.find((candidate) => candidate.key === key);
  if (!disk?.node || disk.skipReason !== null) {
    const found = disk
      ? `that it cannot be backed up: ${disk.skipReason}`
      : disks.map((one) => one.key).join(', ') || 'none';
    throw new BackupError('DiskNotFound', `Expected a disk '${key}' in VM ${machine.name}, found ${found}`);
  }
  const { node, tracksChanges, isEncrypted } = disk;
  const base = baseChangeId === null ? null : bitmapName(baseChangeId, key);
  const bitmap = node['dirty-bitmaps'].find(({ name }) => name === base);
  // A bitmap that was not stored when QEMU died is inconsistent; one that stood still for a while misses writes.
  const isGood = bitmap && bitmap.recording && bitmap.persistent && !bitmap.inconsistent;
  return { key, node, tracksChanges, isEncrypted, base: isGood ? baseChangeId : null };
}

/** What changed up to the point in time, from the base on: a bitmap that stands still while the base records on. */
const sinceBitmap = (snapshotId: string, base: string) => `${prefixOf(snapshotId)}since-${base}`;

async function addScratchImages(
  qmp: QMPClient,
  directory: string,
  snapshotId: string,
  parts: Part[],
  signal: AbortSignal,
): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  for (const { node } of parts) {
    const names = namesFor(snapshotId, node);
    const file = join(directory, names.scratchFile);
    await createImage({ file, sizeBytes: node.image['virtual-size'], signal });
    await qmp.execute('blockdev-add', {
      driver: 'qcow2',
      'node-name': names.scratch,
      file: { driver: 'file', filename: file },
      backing: node['node-name'],
    });
  }
}

/**
 * One transaction for all disks. The jobs first: each holds its disk's I/O back until the transaction ends. With the bitmaps
 * first, a write that ends between the two would be in this point's data, but not among its changes.
 */
function pointInTime(snapshotId: string, parts: Part[]): { type: string; data: Record<string, unknown> }[] {
  const jobs = parts.map(({ node }) => {
    const { job, scratch, filter } = namesFor(snapshotId, node);
    const data = {
      'job-id': job,
      device: node['node-name'],
      target: scratch,
      sync: 'none',
      'filter-node-name': filter,
    };
    return { type: 'blockdev-backup', data };
  });
  const bitmaps = parts.flatMap(({ key, node: { 'node-name': node }, tracksChanges, base }) => {
    const checkpoint = { node, name: bitmapName(changeIdOf(snapshotId), key), persistent: true };
    const add = tracksChanges ? [{ type: 'block-dirty-bitmap-add', data: checkpoint }] : [];
    if (base === null) return add;
    const since = sinceBitmap(snapshotId, base);
    return [
      ...add,
      { type: 'block-dirty-bitmap-add', data: { node, name: since, disabled: true } },
      { type: 'block-dirty-bitmap-merge', data: { node, target: since, bitmaps: [bitmapName(base, key)] } },
    ];
  });
  return [...jobs, ...bitmaps];
}

/** A QEMU process has one NBD server: ours, or the one that it was started with, which is never stopped. */
async function serveNBD(qmp: QMPClient, machine: Machine, directory: string): Promise<string> {
  const own = join(directory, 'nbd.sock');
  try {
    await qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: own } } });
    return own;
  } catch (error) {
    const said = error instanceof BackupError ? String(error.details?.desc) : '';
    if (!said.includes('already running')) throw error; // QEMU has no command that tells
  }
  if (existsSync(machine.nbdPath)) return machine.nbdPath;
  throw new BackupError(
    'SourceFailed',
    `Expected the NBD server that VM ${machine.name} already runs to listen on ${machine.nbdPath}, found no such socket`,
  );
}

async function addExports(qmp: QMPClient, snapshotId: string, parts: Part[]): Promise<void> {
  for (const { node, base } of parts) {
    const { export: id, scratch } = namesFor(snapshotId, node);
    const bitmaps = base === null ? [] : [sinceBitmap(snapshotId, base)];
    await qmp.execute('block-export-add', { type: 'nbd', id, 'node-name': scratch, name: id, bitmaps });
  }
}

/** `graph` is that of the open snapshot: another monitor may have exchanged a disk before it was open, and cannot any longer. */
async function describeParts(
  graph: BlockGraph,
  at: { snapshotId: string; machine: Machine; socketPath: string; signal: AbortSignal },
  parts: Part[],
): Promise<SnapshotDisk[]> {
  const disks = disksOf(graph);
  const described: SnapshotDisk[] = [];
  for (const part of parts) {
    const node = disks.find(({ key }) => key === part.key)?.node;
    if (node?.['node-name'] !== part.node['node-name']) {
      throw new BackupError(
        'SourceFailed',
        `disk '${part.key}' of VM ${at.machine.name} was exchanged while its snapshot was being opened; back the VM up again`,
      );
    }
    described.push(describePart(at.snapshotId, part, await identityOf(node, at.signal), at.socketPath));
  }
  return described;
}

function describePart(
  snapshotId: string,
  { key, node, tracksChanges, isEncrypted, base }: Part,
  identity: string,
  socketPath: string,
): SnapshotDisk {
  return {
    key,
    identity,
    sizeBytes: node.image['virtual-size'],
    isEncrypted,
    uri: `nbd+unix:///${namesFor(snapshotId, node).export}?socket=${encodeURIComponent(socketPath)}`,
    changedSince: base,
    dirtyContext: base === null ? null : `qemu:dirty-bitmap:${sinceBitmap(snapshotId, base)}`,
    changeId: tracksChanges ? changeIdOf(snapshotId) : null,
  };
}

/** Removes all that a snapshot made, whole or half, except its change ids. Safe to repeat; touches no other snapshot. */
export async function removeSnapshot(qmp: QMPClient, snapshotId: string, directory: string): Promise<void> {
  const isItsOwn = (name: string) => name.startsWith(prefixOf(snapshotId));
  const { nodes, exports, jobIds } = await readGraph(qmp);
  const scratchNodes = nodes.filter((node) => isItsOwn(node['node-name']) && node.drv === 'qcow2');

  for (const { id } of exports.filter((one) => isItsOwn(one.id))) {
    await qmp.execute('block-export-del', { id, mode: 'hard' }); // a reader of ours may still be connected
  }
  for (const job of jobIds.filter(isItsOwn)) await qmp.execute('block-job-cancel', { device: job, force: true });
  await untilEnded(qmp, isItsOwn);
  for (const node of scratchNodes) await qmp.execute('blockdev-del', { 'node-name': node['node-name'] });
  for (const node of nodes) {
    for (const { name } of node['dirty-bitmaps'].filter((bitmap) => isItsOwn(bitmap.name))) {
      await qmp.execute('block-dirty-bitmap-remove', { node: node['node-name'], name });
    }
  }
  if (existsSync(join(directory, 'nbd.sock'))) await qmp.execute('nbd-server-stop');
  await rm(directory, { recursive: true, force: true });
  // A full scratch fails the guest's write, and QEMU pauses a guest for that. Now the write can go through.
  if (scratchNodes.length > 0 && (await readState(qmp)).isIOError) await qmp.execute('cont');
}

/** Both end some time after the command that ends them. */
async function untilEnded(qmp: QMPClient, isItsOwn: (name: string) => boolean): Promise<void> {
  const deadline = Date.now() + endTimeoutMs;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 100)) {
    const { exports, jobIds } = await readGraph(qmp);
    const left = [...exports.map(({ id }) => id), ...jobIds].filter(isItsOwn);
    if (left.length === 0) return;
    if (Date.now() > deadline) {
      throw new BackupError(
        'SourceFailed',
        `Expected ${left.join(', ')} to end within ${endTimeoutMs} ms; see what storage it waits for`,
      );
    }
    await wait(pauseMs);
  }
}

/** Removes change ids from all disks; those that are unknown are skipped. */
export async function removeBitmaps(qmp: QMPClient, changeIds: readonly string[]): Promise<void> {
  const { nodes } = await readGraph(qmp);
  for (const node of nodes) {
    for (const { name, persistent } of node['dirty-bitmaps']) {
      if (!persistent || !changeIds.some((changeId) => name.startsWith(`${changeId}-`))) continue;
      await qmp.execute('block-dirty-bitmap-remove', { node: node['node-name'], name });
    }
  }
}

async function undo({ qmpPath }: Machine, directory: string, snapshotId: string): Promise<void> {
  await withQMP(qmpPath, AbortSignal.timeout(2 * endTimeoutMs), async (qmp) => {
    await removeSnapshot(qmp, snapshotId, directory);
    await removeBitmaps(qmp, [changeIdOf(snapshotId)]);
  });
}
