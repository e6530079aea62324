import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BackupError } from '../../domain/errors.js';
import { run } from '../../process/run.js';
import { imageBitmaps } from '../../qemu/image-bitmaps.js';
import { checkpointXml, parseCheckpoint, type CheckpointDisk } from './backup-xml.js';
import { parseDomain, type DomainDisk } from './domain.js';
import { tryVirsh, virsh, virshError, type VirshCall } from './virsh.js';
import { findState } from './vm.js';

/** The disks that a checkpoint records, or null for a checkpoint that libvirt does not know (it has a shut-off VM's too). */
export async function findCheckpoint(
  call: VirshCall,
  vmId: string,
  name: string,
  options: { withSize: boolean },
): Promise<CheckpointDisk[] | null> {
  const args = ['checkpoint-dumpxml', '--domain', vmId, '--checkpointname', name, '--no-domain'];
  const outcome = await tryVirsh(call, options.withSize ? [...args, '--size'] : args);
  if (outcome.ok) return parseCheckpoint(outcome.stdout);
  if (outcome.problem === 'no-checkpoint') return null;
  throw virshError(call.uri, args, outcome);
}

/** Per change id, the targets whose bitmap is there and was stored properly. */
export async function usableTargets(
  call: VirshCall,
  vmId: string,
  changeIds: readonly string[],
): Promise<Map<string, Set<string>>> {
  const usable = new Map<string, Set<string>>();
  for (const changeId of new Set(changeIds)) {
    const disks = (await findCheckpoint(call, vmId, changeId, { withSize: true })) ?? [];
    usable.set(changeId, new Set(disks.filter((disk) => disk.usable).map((disk) => disk.target)));
  }
  return usable;
}

/**
 * Removes a checkpoint and its bitmaps; one that is not there, and a VM that is gone, are success.
 * @throws BackupError SourceFailed, SourceBusy
 */
export async function dropCheckpoint(call: VirshCall, vmId: string, name: string): Promise<void> {
  const state = await findState(call, vmId);
  if (!state) return;
  if (state.state === 'shut off') return dropFromFiles(call, vmId, name);
  const args = ['checkpoint-delete', '--domain', vmId, '--checkpointname', name];
  const outcome = await tryVirsh(call, args);
  if (outcome.ok || outcome.problem === 'no-domain') return;
  if (outcome.problem === 'not-running') return dropFromFiles(call, vmId, name);
  if (outcome.problem !== 'broken-bitmap' && outcome.problem !== 'no-checkpoint')
    throw virshError(call.uri, args, outcome);
  // One bitmap of the checkpoint is gone (QEMU died before it stored it, or the disk was replaced), or its record is: those that are
  // still there would record every write for ever, known to nobody.
  const recorded = await findCheckpoint(call, vmId, name, { withSize: false });
  await dropOneByOne(call, vmId, name, recorded);
}

/** Removes a checkpoint's bitmaps disk by disk: libvirt removes all or none, so each is described to it as a checkpoint by itself. */
async function dropOneByOne(
  call: VirshCall,
  vmId: string,
  name: string,
  recorded: readonly CheckpointDisk[] | null,
): Promise<void> {
  const { disks } = parseDomain(await virsh(call, ['dumpxml', '--domain', vmId]));
  const targets = recorded?.map(({ target }) => target) ?? (await targetsHolding(call, disks, name));
  for (const { target } of disks.filter((disk) => targets.includes(disk.target))) {
    await dropRecord(call, vmId, name);
    const others = disks.map((disk) => disk.target).filter((other) => other !== target);
    await describeCheckpoint(call, vmId, checkpointXml(name, [target], others, Math.floor(Date.now() / 1000)));
    const args = ['checkpoint-delete', '--domain', vmId, '--checkpointname', name];
    const outcome = await tryVirsh(call, args);
    if (!outcome.ok && outcome.problem !== 'broken-bitmap') throw virshError(call.uri, args, outcome);
  }
  await dropRecord(call, vmId, name); // it would stay in the way of 'undefine'
}

async function describeCheckpoint(call: VirshCall, vmId: string, xml: string): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-checkpoint-'));
  try {
    const file = join(directory, 'checkpoint.xml');
    await writeFile(file, xml);
    await virsh(call, ['checkpoint-create', '--domain', vmId, '--xmlfile', file, '--redefine']);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** The targets of the disks whose image names the bitmap. */
async function targetsHolding(call: VirshCall, disks: readonly DomainDisk[], bitmap: string): Promise<string[]> {
  const targets: string[] = [];
  for (const { target, file, format } of disks) {
    if (file === null || format !== 'qcow2') continue;
    if ((await imageBitmaps(file, call.signal)).includes(bitmap)) targets.push(target);
  }
  return targets;
}

async function dropRecord(call: VirshCall, vmId: string, name: string): Promise<void> {
  const args = ['checkpoint-delete', '--domain', vmId, '--checkpointname', name, '--metadata'];
  const outcome = await tryVirsh(call, args);
  if (!outcome.ok && outcome.problem !== 'no-checkpoint') throw virshError(call.uri, args, outcome);
}

/**
 * libvirt deletes no checkpoint of a shut-off VM. Dropping only its record would leave the bitmap in the image, recording
 * every write for ever and known to nobody, so it is taken out of the image first. Other checkpoints do not depend on it:
 * each has its own bitmap. qemu-img's write lock keeps it off an image that QEMU opens at this moment.
 */
async function dropFromFiles(call: VirshCall, vmId: string, name: string): Promise<void> {
  const recorded = await findCheckpoint(call, vmId, name, { withSize: false });
  const { disks } = parseDomain(await virsh(call, ['dumpxml', '--domain', vmId]));
  const targets = recorded?.map(({ target }) => target) ?? (await targetsHolding(call, disks, name));
  for (const { file } of disks.filter((disk) => targets.includes(disk.target))) {
    if (file !== null) await removeBitmap(call, file, name); // libvirt gives a bitmap the checkpoint's name
  }
  await dropRecord(call, vmId, name);
}

async function removeBitmap(call: VirshCall, file: string, bitmap: string): Promise<void> {
  // Only the image's header changes; a minute is for slow network storage.
  const args = ['bitmap', '--remove', '-f', 'qcow2', '--', file, bitmap];
  const { exitCode, stderr } = await run('qemu-img', args, { signal: call.signal, timeoutMs: 60_000 });
  const gone = /Dirty bitmap '.*' not found|No such file or directory|Image is not in qcow2 format/.test(stderr);
  if (exitCode === 0 || gone) return;
  throw new BackupError(
    'SourceFailed',
    `Bitmap ${bitmap} in ${file} was expected to be removed, found: ${stderr.trim()}`,
  );
}
