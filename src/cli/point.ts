import type { Command } from 'commander';
import { listDisksOfJobs, type BackupDisk } from '../db/disks.js';
import { listJobs } from '../db/jobs.js';
import { findPoint } from '../db/points.js';
import { formatBytes } from '../domain/format-bytes.js';
import { addCommand, addGroup, parseCount } from './command.js';
import { withDatabase } from './connect.js';
import { formatTable, formatTime, shortId } from './format.js';
import { isDamaged, sum } from './job.js';
import { addPointProtectionCommands } from './protect.js';
import { describeJob, jobText } from './show-job.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface ListOptions extends CommonOptions {
  vm?: string;
  repository?: string;
  limit: number;
}

export function addPointCommands(program: Command, terminal: Terminal): void {
  const group = addGroup(program, 'point', 'Look at restore points: the jobs that are sealed');
  addCommand(group, 'list', 'List restore points, newest first', 'point list --vm web01')
    .option('--vm <name>', 'only those of one VM')
    .option('--repository <name>', 'only those in one repository')
    .option('--limit <count>', 'at most so many', parseCount(10_000), 50)
    .action(async ({ vm, repository, limit, ...options }: ListOptions) => {
      const found = await withDatabase(terminal, async (db) => {
        const listings = await listJobs(db, { vm, repository, status: 'complete', limit });
        const disks = await listDisksOfJobs(
          db,
          listings.map(({ job }) => job.id),
        );
        return listings.map((listing) => ({ ...listing, disks: disks.get(listing.job.id) ?? [] }));
      });
      const points = found.map(({ job, vm, repository, disks }) => ({
        ...{ id: job.id, vm, repository, pointTime: job.pointTime, consistency: job.consistency },
        ...{ type: pointType(disks), diskCount: disks.length, sizeBytes: sum(disks.map((disk) => disk.sizeBytes)) },
        writtenBytes: sum(disks.map((disk) => disk.writtenBytes)),
        fileBytes: sum(disks.map((disk) => disk.fileBytes ?? 0)),
        ...{ hold: job.hold, immutableUntil: job.immutableUntil, damaged: isDamaged(disks) },
      }));
      const rows = points.map((point) => [
        ...[shortId(point.id), point.vm, point.repository, formatTime(point.pointTime), point.type],
        ...[
          point.consistency ?? '',
          String(point.diskCount),
          formatBytes(point.sizeBytes),
          formatBytes(point.fileBytes),
          protectionOf(point),
          point.damaged ? 'damaged' : '',
        ],
      ]);
      const headings = [
        'POINT',
        'VM',
        'REPOSITORY',
        'TIME',
        'TYPE',
        'CONSISTENCY',
        'DISKS',
        'SIZE',
        'FILES',
        'KEPT',
        'FOUND',
      ];
      const table = { right: ['DISKS', 'SIZE', 'FILES'], colours: hasColours(terminal) };
      const text = rows.length === 0 ? 'No such restore point' : formatTable(headings, rows, table);
      print(terminal, options, { document: { points }, text });
    });

  addCommand(group, 'show', 'Show one restore point with its disks and files', 'point show 3f2a91c0')
    .argument('<id>', 'the id of a restore point, or the beginning of it')
    .action(async (id: string, options: CommonOptions) => {
      const point = await withDatabase(terminal, async (db) => {
        const { job, context, repository } = await findPoint(db, { point: id });
        return describeJob(db, { job, vm: context.vmName, repository: repository.name });
      });
      print(terminal, options, { document: { point }, text: jobText(point, hasColours(terminal)) });
    });

  addPointProtectionCommands(group, terminal);
}

/** What keeps this very point; others that need it may keep it, too. */
function protectionOf({ hold, immutableUntil }: { hold: string | null; immutableUntil: Date | null }): string {
  if (hold !== null) return 'held';
  return immutableUntil !== null && immutableUntil > new Date() ? `until ${formatTime(immutableUntil)}` : '';
}

/** `mixed` where some disks are copied whole and others are not. */
function pointType(disks: readonly BackupDisk[]): string {
  const types = new Set(disks.map(({ type }) => type));
  return types.size > 1 ? 'mixed' : ([...types][0] ?? '');
}
