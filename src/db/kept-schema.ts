import { sql } from 'drizzle-orm';
import { check, index, integer, pgTable, text, timestamp, unique, uuid } from 'drizzle-orm/pg-core';
import { backupJobs, bytes } from './schema.js';

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' });

/**
 * A disk's file that a restore replaced, kept under another name so that there is something to go back to. The row stands before
 * the file has that name, and until it is gone. Paths are absolute, on `host`.
 */
export const keptDisks = pgTable(
  'kept_disks',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    host: text('host').notNull(),
    /** Where the file was, and where the restored disk is now. */
    path: text('path').notNull(),
    keptPath: text('kept_path').notNull(),
    /** The lease of the restore: it is gone when the restore has ended, and the row stays. */
    restoreId: uuid('restore_id').notNull(),
    /** The restore point that took the file's place; null once that is deleted. */
    jobId: uuid('job_id').references(() => backupJobs.id, { onDelete: 'set null' }),
    vmName: text('vm_name').notNull(),
    target: text('target', { enum: ['files', 'vm', 'in-place'] }).notNull(),
    /** What the file was when it was kept: another one under its name is never removed. */
    inode: text('inode').notNull(),
    fileBytes: bytes('file_bytes').notNull(),
    fileModifiedMs: bytes('file_modified_ms').notNull(),
    keepSeconds: integer('keep_seconds').notNull(),
    keptAt: instant('kept_at').notNull().defaultNow(),
    /** Null until the restore is done: the time counts from then on. */
    keptUntil: instant('kept_until'),
    /** Why it was not removed although its time is up. */
    problem: text('problem'),
  },
  (t) => [
    unique('kept_disks_host_kept_path').on(t.host, t.keptPath),
    index('kept_disks_job').on(t.jobId),
    index('kept_disks_restore').on(t.restoreId),
    check('kept_disks_target', sql`${t.target} in ('files', 'vm', 'in-place')`),
    check('kept_disks_keep_seconds', sql`${t.keepSeconds} > 0`),
  ],
);
