import { Option, type Command } from 'commander';
import { listDisksOfJobs } from '../db/disks.js';
import { findJobListing, listJobs, type JobStatus } from '../db/jobs.js';
import { formatBytes } from '../domain/format-bytes.js';
import { addCommand, addGroup, parseCount } from './command.js';
import { withDatabase } from './connect.js';
import { formatDuration, formatTable, formatTime, shortId } from './format.js';
import { describeJob, jobText } from './show-job.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface ListOptions extends CommonOptions {
  vm?: string;
  repository?: string;
  status?: JobStatus;
  limit: number;
}

const statuses: JobStatus[] = ['running', 'complete', 'deleting', 'failed', 'cancelled'];

export function addJobCommands(program: Command, terminal: Terminal): void {
  const group = addGroup(program, 'job', 'Look at backups: those that run, and those that ended');
  addCommand(group, 'list', 'List jobs, newest first', 'job list --vm web01 --status failed')
    .option('--vm <name>', 'only those of one VM')
    .option('--repository <name>', 'only those into one repository')
    .addOption(new Option('--status <status>', 'only those with one status').choices(statuses))
    .option('--limit <count>', 'at most so many', parseCount(10_000), 50)
    .action(async ({ vm, repository, status, limit, ...options }: ListOptions) => {
      const found = await withDatabase(terminal, async (db) => {
        const listings = await listJobs(db, { vm, repository, status, limit });
        const disks = await listDisksOfJobs(
          db,
          listings.map(({ job }) => job.id),
        );
        return listings.map((listing) => ({ ...listing, disks: disks.get(listing.job.id) ?? [] }));
      });
      const jobs = found.map(({ job, vm, repository, disks }) => ({
        ...{ id: job.id, vm, repository, status: job.status, pointTime: job.pointTime },
        ...{ startedAt: job.startedAt, finishedAt: job.finishedAt, diskCount: disks.length },
        ...{ writtenBytes: sum(disks.map((disk) => disk.writtenBytes)), error: job.error },
        damaged: isDamaged(disks),
      }));
      const rows = jobs.map((job) => [
        ...[
          shortId(job.id),
          job.vm,
          job.repository,
          job.damaged ? `${job.status}, damaged` : job.status,
          formatTime(job.startedAt),
        ],
        formatDuration((job.finishedAt ?? new Date()).getTime() - job.startedAt.getTime()),
        ...[String(job.diskCount), formatBytes(job.writtenBytes)],
      ]);
      const headings = ['JOB', 'VM', 'REPOSITORY', 'STATUS', 'STARTED', 'TOOK', 'DISKS', 'WRITTEN'];
      const table = { right: ['TOOK', 'DISKS', 'WRITTEN'], colours: hasColours(terminal) };
      const text = rows.length === 0 ? 'No such job' : formatTable(headings, rows, table);
      print(terminal, options, { document: { jobs }, text });
    });

  addCommand(group, 'show', 'Show one job with its disks', 'job show 3f2a91c0')
    .argument('<id>', 'the id of a job, or the beginning of it')
    .action(async (id: string, options: CommonOptions) => {
      const job = await withDatabase(terminal, async (db) => describeJob(db, await findJobListing(db, id)));
      print(terminal, options, { document: { job }, text: jobText(job, hasColours(terminal)) });
    });
}

/** Whether a verification found damage of a job's disks, or of what they need. */
export function isDamaged(disks: readonly { damage: string | null }[]): boolean {
  return disks.some(({ damage }) => damage !== null);
}

/** The sum of some byte counts. */
export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
