import type { Command } from 'commander';
import { findKept, forgetKept, keepFor, listKept, type KeptDisk } from '../db/kept-disks.js';
import { parseKeepTime } from '../domain/keep-replaced.js';
import { BackupError } from '../domain/errors.js';
import { formatBytes } from '../domain/format-bytes.js';
import { addCommand, addGroup } from './command.js';
import { withDatabase } from './connect.js';
import { formatTable, formatTime, printable, shortId } from './format.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface DestructiveOptions extends CommonOptions {
  yes?: true;
}

/** `kept list`, `extend`, `drop` and `forget`. */
export function addKeptCommands(program: Command, terminal: Terminal): void {
  const group = addGroup(program, 'kept', 'Look at the disks that restores replaced, and say how long they stay');
  addCommand(group, 'list', 'List the disks that are kept, on all hosts', 'kept list').action(
    async (options: CommonOptions) => {
      const kept = await withDatabase(terminal, (db) => listKept(db));
      const text = kept.length === 0 ? 'No replaced disk is kept' : keptTable(kept, hasColours(terminal));
      print(terminal, options, { document: { kept: kept.map(describeKept) }, text });
    },
  );

  addCommand(group, 'extend', 'Keep a replaced disk for longer, from now on', 'kept extend 3f2a91c0 --for 7d')
    .argument('<id>', 'the id of a kept disk, or the beginning of it')
    .requiredOption('--for <time>', `required; such as '24h' or '7d'`)
    .action(async (id: string, options: CommonOptions & { for: string }) => {
      const seconds = parseTime(options.for);
      const disk = await withDatabase(terminal, async (db) => keepFor(db, (await findKept(db, id)).id, seconds));
      const text = `${printable(disk.keptPath)} is kept until ${untilText(disk)}`;
      print(terminal, options, { document: { kept: describeKept(disk) }, text });
    });

  addCommand(group, 'drop', 'Let a replaced disk go now instead of later', 'kept drop 3f2a91c0 --yes')
    .argument('<id>', 'the id of a kept disk, or the beginning of it')
    .option('--yes', 'required to drop it: nobody is asked')
    .action(async (id: string, { yes, ...options }: DestructiveOptions) => {
      const disk = await withDatabase(terminal, async (db) => {
        const found = await findKept(db, id);
        if (!yes) throw notAsked('dropped', found);
        return keepFor(db, found.id, 0);
      });
      const text = `The next reconcile of host '${disk.host}' removes ${printable(disk.keptPath)}; to do it now, run 'backupvm reconcile --host ${disk.host}'`;
      print(terminal, options, { document: { kept: describeKept(disk) }, text });
    });

  addCommand(group, 'forget', 'Forget a replaced disk, and leave its file alone', 'kept forget 3f2a91c0 --yes')
    .argument('<id>', 'the id of a kept disk, or the beginning of it')
    .option('--yes', 'required to forget it: nobody is asked')
    .action(async (id: string, { yes, ...options }: DestructiveOptions) => {
      const disk = await withDatabase(terminal, async (db) => {
        const found = await findKept(db, id);
        if (!yes) throw notAsked('forgotten', found);
        await forgetKept(db, found.id);
        return found;
      });
      const text = `${printable(disk.keptPath)} on host '${disk.host}' is yours: backupvm no longer knows it`;
      print(terminal, options, { document: { kept: describeKept(disk) }, text });
    });
}

function notAsked(what: string, { id, host, keptPath, fileBytes }: KeptDisk): BackupError {
  return new BackupError(
    'InvalidInput',
    `nothing was ${what}: ${keptPath} on host '${host}' holds ${formatBytes(fileBytes)}; add --yes for disk ${shortId(id)}`,
  );
}

function parseTime(text: string): number {
  const seconds = parseKeepTime(text);
  if (seconds !== undefined && seconds > 0) return seconds;
  throw new BackupError('InvalidInput', `Expected in --for a time such as '24h', '7d' or '90m', found '${text}'`);
}

/** One kept disk, for programs. */
export function describeKept(disk: KeptDisk) {
  const { id, host, vmName: vm, path, keptPath, jobId: pointId, target, fileBytes, keptAt, keptUntil, problem } = disk;
  return { id, host, vm, path, keptPath, pointId, target, fileBytes, keptAt, keptUntil, problem };
}

/** Until when a disk is kept, and why it is still there after that. */
export function untilText({ keptUntil, problem }: Pick<KeptDisk, 'keptUntil' | 'problem'>): string {
  const time = keptUntil === null ? 'its restore is done' : formatTime(keptUntil);
  return problem === null ? time : `${time}; not removed: ${problem}`;
}

function keptTable(kept: readonly KeptDisk[], colours: boolean): string {
  const rows = kept.map((disk) => [
    ...[shortId(disk.id), disk.host, disk.vmName, disk.path, disk.keptPath, formatBytes(disk.fileBytes)],
    untilText(disk),
  ]);
  return formatTable(['DISK', 'HOST', 'VM', 'REPLACED', 'KEPT AS', 'SIZE', 'UNTIL'], rows, {
    right: ['SIZE'],
    colours,
  });
}
