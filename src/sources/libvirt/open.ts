import { writeFile } from 'node:fs/promises';
import { BackupError } from '../../domain/errors.js';
import { acceptedRisks, afterRisk, guestAtRisk } from '../../domain/iothread-safety.js';
import { inspectExport } from '../../nbd/nbdinfo.js';
import {
  changeIdOf,
  type Consistency,
  type OpenSnapshot,
  type OpenSnapshotRequest,
  type SnapshotDisk,
} from '../source.js';
import { busyError, endBackupJob, runningJob } from './backup-job.js';
import { backupXml, checkpointXml } from './backup-xml.js';
import { warnOfSnapshots } from './change-ids.js';
import { dropCheckpoint, usableTargets } from './checkpoints.js';
import { encryptedTargets } from './disk-definitions.js';
import { openedIdentities } from './disk-identity.js';
import { parseDomain, type Domain, type DomainDisk } from './domain.js';
import { freeze, thaw } from './freeze.js';
import { findIothreadRisk } from './iothreads.js';
import { jobDirectory, makeJobDirectory, removeJobDirectory, type JobDirectory } from './job-directory.js';
import { tryVirsh, virsh, virshError, type VirshCall } from './virsh.js';
import { requireRunning, type DomainState } from './vm.js';

export interface LibvirtOptions {
  uri: string;
  /** Where scratch files and sockets go: on a disk with room for what guests overwrite during a backup, passable for QEMU's user. */
  scratchDir: string;
}

/** What a backup job was begun with. */
interface Opened {
  consistency: Consistency;
  warnings: string[];
  vmConfig: string;
  disks: PlannedDisk[];
}

interface PlannedDisk {
  key: string;
  target: string;
  base: string | null;
  tracksChanges: boolean;
}

/** See `Source.openSnapshot`. */
export async function openSnapshot(
  { uri, scratchDir }: LibvirtOptions,
  request: OpenSnapshotRequest,
  signal: AbortSignal,
): Promise<OpenSnapshot> {
  const call = { uri, signal };
  const directory = jobDirectory(scratchDir, request.snapshotId);
  const state = await requireRunning(call, request.vmId);
  const vmConfig = await virsh(call, ['dumpxml', '--domain', request.vmId]);
  const domain = parseDomain(vmConfig);
  const chosen = chooseDisks(domain, request);

  const job = await runningJob(call, request.vmId);
  if (job.kind !== 'none') throw busyError(request.vmId, job);
  const planned = chosen.map(({ disk }) => disk);
  const risk = await requireSafeReading(call, request, domain.name, vmConfig, planned);
  const tracksAny = planned.some((disk) => disk.tracksChanges);
  const warnings = tracksAny ? await warnOfSnapshots(call, request.vmId, domain.name) : [];
  try {
    await makeJobDirectory(directory, domain.qemuUser);
    const usable = await usableTargets(call, request.vmId, baseChangeIds(request));
    const disks = chosen.map(({ disk, baseChangeId }) => ({
      key: disk.key,
      target: disk.target,
      tracksChanges: disk.tracksChanges,
      base:
        baseChangeId !== null && disk.tracksChanges && usable.get(baseChangeId)?.has(disk.target) ? baseChangeId : null,
    }));
    const opened = await freezeAndBegin(call, request, state, directory, { vmConfig, domain, disks });
    // The VM may have been started anew since, with other disks. Nothing has read from the job yet.
    const openedXml = await virsh(call, ['dumpxml', '--domain', request.vmId]);
    await requireSafeReading(call, request, domain.name, openedXml, planned);
    const identities = await openedIdentities(call, request.vmId, openedXml, opened.disks);
    const described = await describe(opened, identities, request.snapshotId, directory, signal);
    return { ...described, warnings: [...described.warnings, ...warnings, ...acceptedRisks(risk)] };
  } catch (error) {
    // Should this fail too, the first error is the one to tell; closeSnapshot removes the rest.
    await removeHalfMade({ uri }, request, directory).catch(() => undefined);
    throw afterRisk(error, risk);
  }
}

/** @returns the risk that the request accepts, or null. @throws BackupError GuestAtRisk */
async function requireSafeReading(
  call: VirshCall,
  { vmId, allowIothreads }: OpenSnapshotRequest,
  name: string,
  domainXml: string,
  disks: readonly DomainDisk[],
): Promise<string | null> {
  const risk = await findIothreadRisk(call, vmId, domainXml, disks);
  if (risk !== null && !allowIothreads) throw guestAtRisk(name, risk);
  return risk;
}

function baseChangeIds(request: OpenSnapshotRequest): string[] {
  return request.disks.flatMap(({ baseChangeId }) => (baseChangeId === null ? [] : [baseChangeId]));
}

function chooseDisks(
  domain: Domain,
  request: OpenSnapshotRequest,
): { disk: DomainDisk; baseChangeId: string | null }[] {
  return request.disks.map(({ key, baseChangeId }) => {
    const disk = domain.disks.find((candidate) => candidate.key === key);
    if (disk && disk.skipReason === null) return { disk, baseChangeId };
    const found = disk
      ? `one that cannot be backed up (${disk.skipReason ?? ''})`
      : domain.disks.map((d) => d.key).join(', ');
    throw new BackupError(
      'DiskNotFound',
      `VM ${domain.name} (${request.vmId}) is expected to have a disk '${key}', found ${found || 'no disks'}`,
    );
  });
}

/** Without a signal: what a cancelled attempt made must go too. The note of a freeze stays until the guest is thawed. */
async function removeHalfMade(call: VirshCall, request: OpenSnapshotRequest, directory: JobDirectory): Promise<void> {
  await thaw(call.uri, request.vmId, directory);
  await endBackupJob(call, request.vmId, directory);
  await dropCheckpoint(call, request.vmId, changeIdOf(request.snapshotId));
  await removeJobDirectory(directory);
}

async function freezeAndBegin(
  call: VirshCall,
  request: OpenSnapshotRequest,
  state: DomainState,
  directory: JobDirectory,
  plan: { vmConfig: string; domain: Domain; disks: PlannedDisk[] },
): Promise<Opened> {
  try {
    const frozen = await freeze(call, request, state, directory);
    return await begin(call, request, directory, plan.domain, {
      ...frozen,
      vmConfig: plan.vmConfig,
      disks: plan.disks,
    });
  } finally {
    await thaw(call.uri, request.vmId, directory);
  }
}

/** Begins the backup, again with a disk whole for each disk whose base turns out to be lost. */
async function begin(
  call: VirshCall,
  request: OpenSnapshotRequest,
  directory: JobDirectory,
  domain: Domain,
  opened: Opened,
): Promise<Opened> {
  const tracked = opened.disks.filter((disk) => disk.tracksChanges).map((disk) => disk.target);
  const othersThan = (targets: string[]) =>
    domain.disks.map((disk) => disk.target).filter((target) => !targets.includes(target));
  const args = ['backup-begin', '--domain', request.vmId, '--backupxml', directory.backupXml];
  if (tracked.length > 0) args.push('--checkpointxml', directory.checkpointXml);
  const checkpoint = checkpointXml(changeIdOf(request.snapshotId), tracked, othersThan(tracked));
  await writeFile(directory.checkpointXml, checkpoint, { mode: 0o600 });
  const plans = opened.disks.map(({ target, base }) => ({
    target,
    incremental: base,
    scratchFile: `${directory.io}/${target}.scratch`,
  }));
  await writeFile(
    directory.backupXml,
    backupXml(directory.socket, plans, othersThan(plans.map((disk) => disk.target))),
    { mode: 0o600 },
  );
  const outcome = await tryVirsh(call, args);
  if (outcome.ok) return opened;
  const lost = lostBase(opened.disks, outcome);
  if (!lost) throw virshError(call.uri, args, outcome);
  const disks = opened.disks.map((disk) => (disk === lost ? { ...disk, base: null } : disk));
  return begin(call, request, directory, domain, { ...opened, disks });
}

/** The disk whose bitmap or checkpoint libvirt missed: it names the disk, and one at a time. */
function lostBase(disks: readonly PlannedDisk[], failure: { problem: string; said: string }): PlannedDisk | undefined {
  if (failure.problem !== 'broken-bitmap' && failure.problem !== 'no-checkpoint') return undefined;
  const target = /(?:for|of) disk '([^']+)'/.exec(failure.said)?.[1];
  return disks.find((disk) => disk.target === target && disk.base !== null);
}

/** Asks the NBD server itself for the sizes: no disk can be resized while it is open. */
async function describe(
  opened: Opened,
  identities: readonly string[],
  snapshotId: string,
  directory: JobDirectory,
  signal: AbortSignal,
): Promise<OpenSnapshot> {
  const disks: SnapshotDisk[] = [];
  const encrypted = encryptedTargets(opened.vmConfig);
  for (const [index, { key, target, base, tracksChanges }] of opened.disks.entries()) {
    const uri = `nbd+unix:///${encodeURIComponent(target)}?socket=${encodeURIComponent(directory.socket)}`;
    const { sizeBytes } = await inspectExport(uri, signal);
    disks.push({
      key,
      identity: identities[index] ?? '',
      sizeBytes,
      uri,
      isEncrypted: encrypted.has(target),
      changedSince: base,
      dirtyContext: base === null ? null : `qemu:dirty-bitmap:backup-${target}`,
      changeId: tracksChanges ? changeIdOf(snapshotId) : null,
    });
  }
  return { consistency: opened.consistency, warnings: opened.warnings, vmConfig: opened.vmConfig, disks };
}
