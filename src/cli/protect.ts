import { hostname, userInfo } from 'node:os';
import { InvalidArgumentError, type Command } from 'commander';
import { chooseRepository } from '../db/repositories.js';
import { findPoint } from '../db/points.js';
import {
  changeHold,
  extendPointImmutability,
  extendRepositoryImmutability,
  type ProtectionAuthor,
  type ProtectionChange,
} from '../db/protection.js';
import { BackupError } from '../domain/errors.js';
import { addCommand } from './command.js';
import { withDatabase } from './connect.js';
import { formatTime, shortId } from './format.js';
import { print, type CommonOptions, type Terminal } from './terminal.js';

interface ReasonOptions extends CommonOptions {
  reason: string;
}

interface UntilOptions extends CommonOptions {
  until: string;
  reason?: string;
}

/** `point hold`, `point release` and `point immutable`. */
export function addPointProtectionCommands(group: Command, terminal: Terminal): void {
  addCommand(
    group,
    'hold',
    'Keep a restore point, and all that it needs, from being deleted or merged',
    `point hold 3f2a91c0 --reason 'audit 2026'`,
  )
    .argument('<id>', 'the id of a restore point, or the beginning of it')
    .requiredOption('--reason <text>', 'required; why it must stay', parseReason)
    .action(async (id: string, { reason, ...options }: ReasonOptions) => {
      await withDatabase(terminal, async (db) => {
        const { job } = await findPoint(db, { point: id });
        const { hold } = await changeHold(db, job.id, reason, author(reason));
        const text = `Restore point ${shortId(job.id)} is held, and all that it needs: ${hold}`;
        print(terminal, options, { document: { pointId: job.id, hold }, text });
      });
    });

  addCommand(group, 'release', 'End a hold', `point release 3f2a91c0 --reason 'audit is done'`)
    .argument('<id>', 'the id of a restore point, or the beginning of it')
    .requiredOption('--reason <text>', 'required; why it need not stay any more', parseReason)
    .action(async (id: string, { reason, ...options }: ReasonOptions) => {
      await withDatabase(terminal, async (db) => {
        const { job } = await findPoint(db, { point: id });
        const { hold } = await changeHold(db, job.id, null, author(reason));
        const text = `Restore point ${shortId(job.id)} is held no more; it was: ${job.hold}`;
        print(terminal, options, { document: { pointId: job.id, hold }, text });
      });
    });

  addUntil(
    addCommand(
      group,
      'immutable',
      'Keep a restore point, and all that it needs, until a time; it cannot be shortened',
      'point immutable 3f2a91c0 --until 2027-01-01',
    ).argument('<id>', 'the id of a restore point, or the beginning of it'),
  ).action(async (id: string, { reason, ...options }: UntilOptions) => {
    const until = parseUntil(options.until);
    await withDatabase(terminal, async (db) => {
      const { job } = await findPoint(db, { point: id });
      await extendPointImmutability(db, job.id, until, author(reason ?? null));
      const text = `Restore point ${shortId(job.id)} is immutable until ${formatTime(until)}, and all that it needs`;
      print(terminal, options, { document: { pointId: job.id, immutableUntil: until }, text });
    });
  });
}

/** `repository immutable`. */
export function addRepositoryProtectionCommand(group: Command, terminal: Terminal): void {
  addUntil(
    addCommand(
      group,
      'immutable',
      'Keep all restore points of a repository until a time; it cannot be shortened',
      'repository immutable main --until 2027-01-01',
    ).argument('<name>', 'the name of a registered repository'),
  ).action(async (name: string, { reason, ...options }: UntilOptions) => {
    const until = parseUntil(options.until);
    await withDatabase(terminal, async (db) => {
      const { id } = await chooseRepository(db, name);
      await extendRepositoryImmutability(db, id, until, author(reason ?? null));
      const text = `Repository '${name}' is immutable until ${formatTime(until)}: none of its restore points can be deleted or merged`;
      print(terminal, options, { document: { repository: name, immutableUntil: until }, text });
    });
  });
}

/** One change of a protection in words, for the history of a point. */
export function protectionChangeText({
  kind,
  changedBy,
  before,
  after,
  reason,
  repositoryId,
}: ProtectionChange): string {
  const what = {
    hold: `held: ${after}`,
    release: `released; it was held: ${before}`,
    immutable_until: `${repositoryId === null ? '' : 'repository '}immutable until ${after}${before === null ? '' : `, before until ${before}`}`,
  }[kind];
  return `${what}; by ${changedBy}${reason === null || reason === after ? '' : `: ${reason}`}`;
}

function addUntil(command: Command): Command {
  return command
    .requiredOption('--until <time>', 'required; a date (00:00 UTC), or a time such as 2027-01-01T12:00Z')
    .option('--reason <text>', 'why, for the record', parseReason);
}

/** A date alone is its beginning in UTC; a time must say its zone, so that it means the same everywhere. */
function parseUntil(text: string): Date {
  const isTime = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d))?$/.test(text);
  const time = new Date(text);
  if (isTime && !Number.isNaN(time.getTime())) return time;
  throw new BackupError(
    'InvalidInput',
    `Expected in --until a date such as 2027-01-01, or a time with its zone such as 2027-01-01T12:00Z, found '${text}'`,
  );
}

function parseReason(text: string): string {
  if (text.trim() !== '' && text.length <= 500 && !/\p{Cc}/u.test(text)) return text;
  throw new InvalidArgumentError('Expected a reason of 1 to 500 characters in one line.');
}

function author(reason: string | null): ProtectionAuthor {
  return { changedBy: `${userInfo().username}@${hostname()}`, reason };
}
