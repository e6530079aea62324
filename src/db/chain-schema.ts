import { sql } from 'drizzle-orm';
import {
  boolean,
  check,
  index,
  integer,
  pgTable,
  text,
  timestamp,
  unique,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core';
import { backupDisks, backupJobs, bytes, hypervisors, repositories, vmBackupContexts } from './schema.js';

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' });

/** The process that an operation writes with: all three, or none while there is none. */
const processColumns = () => ({
  pid: integer('pid'),
  /** Field 22 of /proc/PID/stat: tells a process from a later one with the same pid. */
  startTime: text('start_time'),
  bootId: text('boot_id'),
});

/**
 * A run that works on the restore points of a context: `shared` reads their files, `exclusive` changes or removes them. The row
 * stands before its first act and until nothing of it is left; what it has to clean up hangs on it. A backup's lease is its
 * running job.
 */
export const chainLeases = pgTable(
  'chain_leases',
  {
    id: uuid('id').primaryKey(),
    contextId: uuid('context_id')
      .notNull()
      .references(() => vmBackupContexts.id, { onDelete: 'cascade' }),
    mode: text('mode', { enum: ['shared', 'exclusive'] }).notNull(),
    purpose: text('purpose', { enum: ['restore', 'verify', 'delete', 'prune'] }).notNull(),
    workflowId: text('workflow_id').notNull(),
    runId: text('run_id').notNull(),
    /** The Temporal namespace whose run this is, by the server's id. */
    namespaceId: text('namespace_id').notNull(),
    /** The context itself goes when its restore points are gone. Set together with their tombstones. */
    deletesContext: boolean('deletes_context').notNull().default(false),
    /** What kept the last try of the clean-up from being done. */
    cleanUpError: text('clean_up_error'),
    acquiredAt: instant('acquired_at').notNull().defaultNow(),
  },
  (t) => [
    index('chain_leases_context').on(t.contextId),
    uniqueIndex('chain_leases_one_exclusive')
      .on(t.contextId)
      .where(sql`${t.mode} = 'exclusive'`),
    check('chain_leases_mode', sql`${t.mode} in ('shared', 'exclusive')`),
    check('chain_leases_purpose', sql`${t.purpose} in ('restore', 'verify', 'delete', 'prune')`),
  ],
);

/** A restore that goes on: what has to be undone if it does not complete. */
export const restores = pgTable(
  'restores',
  {
    leaseId: uuid('lease_id')
      .primaryKey()
      .references(() => chainLeases.id, { onDelete: 'cascade' }),
    jobId: uuid('job_id')
      .notNull()
      .references(() => backupJobs.id, { onDelete: 'cascade' }),
    target: text('target', { enum: ['files', 'vm', 'in-place'] }).notNull(),
    hypervisorId: uuid('hypervisor_id').references(() => hypervisors.id, { onDelete: 'cascade' }),
    /** Of the new VM, chosen before it is defined; or of the VM whose disks are replaced. */
    vmId: text('vm_id'),
    vmName: text('vm_name'),
    /** Whether files, and a VM of that name, may be replaced. */
    overwrite: boolean('overwrite').notNull(),
    /** How long the files that it replaces are kept; 0: they go as soon as it is done. */
    keepReplacedSeconds: integer('keep_replaced_seconds').notNull(),
    /** From `placing` on, every disk is written and verified: it is finished, not undone. From `undoing` on, the other way round. */
    phase: text('phase', { enum: ['writing', 'placing', 'undoing'] })
      .notNull()
      .default('writing'),
  },
  (t) => [
    check('restores_target', sql`${t.target} in ('files', 'vm', 'in-place')`),
    check('restores_phase', sql`${t.phase} in ('writing', 'placing', 'undoing')`),
  ],
);

/** One disk of a restore that goes on. Paths are absolute, on `host`. */
export const restoreDisks = pgTable(
  'restore_disks',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    leaseId: uuid('lease_id')
      .notNull()
      .references(() => restores.leaseId, { onDelete: 'cascade' }),
    backupDiskId: uuid('backup_disk_id')
      .notNull()
      .references(() => backupDisks.id, { onDelete: 'cascade' }),
    host: text('host').notNull(),
    path: text('path').notNull(),
    format: text('format', { enum: ['qcow2', 'raw'] }).notNull(),
    /** The unfinished file, beside the final one; the row stands before the file. */
    attemptPath: text('attempt_path').notNull(),
    /** Where the file that was there before is kept; null where there was none. */
    keptPath: text('kept_path'),
    status: text('status', { enum: ['planned', 'writing', 'written', 'placed'] })
      .notNull()
      .default('planned'),
    writtenBytes: bytes('written_bytes').notNull().default(0),
    ...processColumns(),
  },
  (t) => [
    unique('restore_disks_host_path').on(t.host, t.path),
    index('restore_disks_lease').on(t.leaseId),
    check('restore_disks_format', sql`${t.format} in ('qcow2', 'raw')`),
    check('restore_disks_status', sql`${t.status} in ('planned', 'writing', 'written', 'placed')`),
  ],
);

/**
 * The journal of a merge: the data of `successorId` and of everything between goes into the file of `baseId`, which then takes
 * the successor's name. The base's own point is gone from the first byte on; the successor reads right at any moment.
 */
export const merges = pgTable(
  'merges',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    leaseId: uuid('lease_id')
      .notNull()
      .references(() => chainLeases.id, { onDelete: 'no action' }),
    baseId: uuid('base_id')
      .notNull()
      .references(() => backupDisks.id, { onDelete: 'cascade' }),
    successorId: uuid('successor_id')
      .notNull()
      .references(() => backupDisks.id, { onDelete: 'cascade' }),
    phase: text('phase', { enum: ['committing', 'replacing'] })
      .notNull()
      .default('committing'),
    /** The base's file once it holds all and has been compared: tells it under the successor's name. */
    mergedChecksum: text('merged_checksum'),
    mergedBytes: bytes('merged_bytes'),
    ...processColumns(),
  },
  (t) => [
    unique('merges_base').on(t.baseId),
    unique('merges_successor').on(t.successorId),
    check('merges_phase', sql`${t.phase} in ('committing', 'replacing')`),
    check(
      'merges_replacing',
      sql`${t.phase} = 'committing' or (${t.mergedChecksum} is not null and ${t.mergedBytes} is not null)`,
    ),
  ],
);

/** How many restore points of a context to keep, by which rule. Null: the rule does not apply. */
export const retentionPolicies = pgTable(
  'retention_policies',
  {
    contextId: uuid('context_id')
      .primaryKey()
      .references(() => vmBackupContexts.id, { onDelete: 'cascade' }),
    keepLast: integer('keep_last'),
    keepHourly: integer('keep_hourly'),
    keepDaily: integer('keep_daily'),
    keepWeekly: integer('keep_weekly'),
    keepMonthly: integer('keep_monthly'),
    keepYearly: integer('keep_yearly'),
    /** IANA name: where a day begins. */
    timeZone: text('time_zone').notNull(),
    updatedAt: instant('updated_at').notNull().defaultNow(),
  },
  (t) => [
    check(
      'retention_policies_counts',
      // An empty policy would remove everything.
      sql`coalesce(least(${t.keepLast}, ${t.keepHourly}, ${t.keepDaily}, ${t.keepWeekly}, ${t.keepMonthly}, ${t.keepYearly}), 0) > 0`,
    ),
  ],
);

/** Every change of a hold or of immutability, lifting included. Outlives what it tells of. */
export const protectionChanges = pgTable(
  'protection_changes',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    changedAt: instant('changed_at').notNull().defaultNow(),
    changedBy: text('changed_by').notNull(),
    kind: text('kind', { enum: ['hold', 'release', 'immutable_until'] }).notNull(),
    /** The point or repository, by id: no foreign key, since the record stays when they go. */
    jobId: uuid('job_id'),
    repositoryId: uuid('repository_id').references(() => repositories.id, { onDelete: 'set null' }),
    before: text('before'),
    after: text('after'),
    reason: text('reason'),
  },
  (t) => [
    index('protection_changes_job').on(t.jobId),
    check('protection_changes_kind', sql`${t.kind} in ('hold', 'release', 'immutable_until')`),
  ],
);
