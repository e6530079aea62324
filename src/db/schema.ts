import { sql } from 'drizzle-orm';
import {
  bigint,
  boolean,
  check,
  foreignKey,
  index,
  integer,
  pgTable,
  primaryKey,
  text,
  timestamp,
  unique,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core';

/** A count or an offset in bytes. */
export const bytes = (name: string) => bigint(name, { mode: 'number' });
const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' });

/** A registered connection to where VMs run. `host` is the machine whose worker reads from it. */
export const hypervisors = pgTable(
  'hypervisors',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    name: text('name').notNull().unique(),
    kind: text('kind', { enum: ['libvirt', 'qmp'] }).notNull(),
    uri: text('uri').notNull(),
    host: text('host').notNull(),
    createdAt: instant('created_at').notNull().defaultNow(),
  },
  (t) => [
    unique('hypervisors_host_uri').on(t.host, t.uri),
    check('hypervisors_kind', sql`${t.kind} in ('libvirt', 'qmp')`),
  ],
);

/** The one machine that a host's workers may run on: another one would take the host's processes for dead. */
export const hosts = pgTable('hosts', {
  name: text('name').primaryKey(),
  machineId: text('machine_id').notNull(),
  claimedAt: instant('claimed_at').notNull().defaultNow(),
});

/** A directory on one host that holds backups. Its id also stands in the directory's marker file. */
export const repositories = pgTable(
  'repositories',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    name: text('name').notNull().unique(),
    host: text('host').notNull(),
    path: text('path').notNull(),
    /** Until then no restore point in it may be deleted, pruned, merged or overwritten. */
    immutableUntil: instant('immutable_until'),
    /**
     * Moves with each transaction that makes, changes or removes restore points. The repository has it too, written after the commit:
     * a repository that is further than its row shows that the database is older, such as a dump that was restored.
     */
    epoch: bigint('epoch', { mode: 'number' }).notNull().default(0),
    /** Tells this registration of the directory from one in another database. A dump keeps it. */
    registrationId: uuid('registration_id').notNull().defaultRandom(),
    createdAt: instant('created_at').notNull().defaultNow(),
  },
  (t) => [unique('repositories_host_path').on(t.host, t.path)],
);

/** One VM in one repository: owner of the chains. */
export const vmBackupContexts = pgTable(
  'vm_backup_contexts',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    repositoryId: uuid('repository_id')
      .notNull()
      .references(() => repositories.id, { onDelete: 'restrict' }),
    hypervisorId: uuid('hypervisor_id')
      .notNull()
      .references(() => hypervisors.id, { onDelete: 'restrict' }),
    /** The hypervisor's own id: stays when the VM is renamed, differs when it is made anew under the same name. */
    vmId: text('vm_id').notNull(),
    /** The name at the last backup, for people. */
    vmName: text('vm_name').notNull(),
    /** The VM's folder in the repository: fixed at the first backup. */
    directory: text('directory').notNull(),
    createdAt: instant('created_at').notNull().defaultNow(),
  },
  (t) => [
    unique('vm_backup_contexts_vm_repository').on(t.hypervisorId, t.vmId, t.repositoryId),
    unique('vm_backup_contexts_directory').on(t.repositoryId, t.directory),
    index('vm_backup_contexts_name').on(t.vmName),
  ],
);

/** One run of BackupVM. Once `complete`, it is a restore point. */
export const backupJobs = pgTable(
  'backup_jobs',
  {
    id: uuid('id').primaryKey(),
    contextId: uuid('context_id')
      .notNull()
      .references(() => vmBackupContexts.id, { onDelete: 'cascade' }),
    workflowId: text('workflow_id').notNull(),
    runId: text('run_id').notNull(),
    /** The Temporal namespace whose run this is, by the server's id; null where a restore point was imported. */
    namespaceId: text('namespace_id'),
    /**
     * `aborting`: it will not be sealed any more, and its clean-up is not done yet. `deleting`: the tombstone of a restore
     * point whose files are going.
     */
    status: text('status', { enum: ['running', 'aborting', 'complete', 'deleting', 'failed', 'cancelled'] })
      .notNull()
      .default('running'),
    /** Names the files. Whole seconds, and no two of one context alike. */
    pointTime: instant('point_time').notNull(),
    /**
     * Every snapshot that was to be opened for the job, written before it is: an id for each attempt. Only the last one counts;
     * an attempt that comes late finds that it is not the last, and takes back what it made.
     */
    snapshotIds: uuid('snapshot_ids')
      .array()
      .notNull()
      .default(sql`'{}'`),
    consistency: text('consistency', { enum: ['application', 'filesystem', 'crash'] }),
    /** The VM's definition as the hypervisor gave it (domain XML). */
    vmConfig: text('vm_config'),
    warnings: text('warnings')
      .array()
      .notNull()
      .default(sql`'{}'`),
    error: text('error'),
    /** Whether something of the run may still be there: a process, a port, an open snapshot, an unfinished file. */
    cleanUp: text('clean_up', { enum: ['pending', 'done'] })
      .notNull()
      .default('pending'),
    /** What kept the last try of the clean-up from being done. */
    cleanUpError: text('clean_up_error'),
    /** Why the point must stay, and with it all that it needs; null where nobody holds it. */
    hold: text('hold'),
    immutableUntil: instant('immutable_until'),
    startedAt: instant('started_at').notNull().defaultNow(),
    finishedAt: instant('finished_at'),
  },
  (t) => [
    unique('backup_jobs_run').on(t.workflowId, t.runId),
    unique('backup_jobs_point_time').on(t.contextId, t.pointTime),
    unique('backup_jobs_id_context').on(t.id, t.contextId),
    uniqueIndex('backup_jobs_one_running')
      .on(t.contextId)
      .where(sql`${t.status} in ('running', 'aborting')`),
    check(
      'backup_jobs_status',
      sql`${t.status} in ('running', 'aborting', 'complete', 'deleting', 'failed', 'cancelled')`,
    ),
    check('backup_jobs_namespace', sql`${t.namespaceId} is not null or ${t.status} in ('complete', 'deleting')`),
    check('backup_jobs_clean_up', sql`${t.cleanUp} in ('pending', 'done')`),
    check('backup_jobs_consistency', sql`${t.consistency} in ('application', 'filesystem', 'crash')`),
    check('backup_jobs_finished', sql`(${t.status} in ('running', 'aborting')) = (${t.finishedAt} is null)`),
  ],
);

/** One disk in one job. */
export const backupDisks = pgTable(
  'backup_disks',
  {
    id: uuid('id').primaryKey().defaultRandom(),
    jobId: uuid('job_id').notNull(),
    contextId: uuid('context_id')
      .notNull()
      .references(() => vmBackupContexts.id, { onDelete: 'cascade' }),
    /** The backup disk whose file this one's file points to. A parent cannot go before its children. */
    parentId: uuid('parent_id'),
    diskKey: text('disk_key').notNull(),
    target: text('target').notNull(),
    /** What the disk stood on when it was read, as the source says it: with another one, it is another disk. */
    identity: text('identity').notNull(),
    status: text('status', { enum: ['planned', 'copying', 'copied', 'complete'] })
      .notNull()
      .default('planned'),
    type: text('type', { enum: ['full', 'incremental'] }).notNull(),
    reason: text('reason').notNull(),
    sizeBytes: bytes('size_bytes').notNull(),
    /** Whether the VM's disk was encrypted: its backup is not. */
    wasEncrypted: boolean('was_encrypted').notNull().default(false),
    changedBytes: bytes('changed_bytes').notNull().default(0),
    writtenBytes: bytes('written_bytes').notNull().default(0),
    /** What the hypervisor must be asked with next time; null where it does not track changes, or has been told to forget. */
    changeId: text('change_id'),
    /** Where the open snapshot serves this disk, on the hypervisor's host. */
    sourceUri: text('source_uri'),
    dirtyContext: text('dirty_context'),
    /** Relative to the repository. */
    path: text('path').notNull(),
    /** The unfinished file's path, while there may be one. */
    attemptPath: text('attempt_path'),
    fileBytes: bytes('file_bytes'),
    /** The file's modification time at the seal, in whole ms: another one means that its checksum must be looked at again. */
    fileModifiedMs: bytes('file_modified_ms'),
    /** Of the file, as `sha256:<hex>`. */
    checksum: text('checksum'),
    /** The NBD port that the copy went through. */
    nbdPort: integer('nbd_port'),
    /** The newest restore point of this disk in its context: the next incremental starts here. */
    isHead: boolean('is_head').notNull().default(false),
    /** The VM's disk was replaced by a restore since: what the hypervisor recorded from here on is of no use. */
    isRestoredOver: boolean('is_restored_over').notNull().default(false),
    /** A person had the hypervisor forget its change id, and all others of the VM. */
    isForgotten: boolean('is_forgotten').notNull().default(false),
    /** What a verification found wrong with this disk's file, or with one that it needs; null where nothing is known. */
    damage: text('damage'),
    /** Of the block hashes beside the file, as `sha256:<hex>`. */
    hashesChecksum: text('hashes_checksum'),
    startedAt: instant('started_at'),
    finishedAt: instant('finished_at'),
  },
  (t) => [
    // Both keys together: a disk's context is always its job's.
    foreignKey({
      name: 'backup_disks_job',
      columns: [t.jobId, t.contextId],
      foreignColumns: [backupJobs.id, backupJobs.contextId],
    }).onDelete('cascade'),
    foreignKey({ name: 'backup_disks_parent', columns: [t.parentId], foreignColumns: [t.id] }).onDelete('restrict'),
    unique('backup_disks_job_disk').on(t.jobId, t.diskKey),
    unique('backup_disks_path').on(t.contextId, t.path),
    uniqueIndex('backup_disks_one_head')
      .on(t.contextId, t.diskKey)
      .where(sql`${t.isHead}`),
    index('backup_disks_parent_id').on(t.parentId),
    check('backup_disks_status', sql`${t.status} in ('planned', 'copying', 'copied', 'complete')`),
    check('backup_disks_type', sql`${t.type} in ('full', 'incremental')`),
    // What a job did not complete loses its parent when that is deleted.
    check(
      'backup_disks_parent_of_incremental',
      sql`(${t.type} = 'incremental' or ${t.parentId} is null) and (${t.type} = 'full' or ${t.parentId} is not null or ${t.status} <> 'complete')`,
    ),
    check('backup_disks_size', sql`${t.sizeBytes} > 0 and ${t.changedBytes} >= 0 and ${t.writtenBytes} >= 0`),
    check(
      'backup_disks_complete',
      sql`${t.status} <> 'complete' or (${t.checksum} is not null and ${t.hashesChecksum} is not null and ${t.fileBytes} is not null and ${t.fileModifiedMs} is not null and ${t.attemptPath} is null)`,
    ),
    check('backup_disks_head', sql`not ${t.isHead} or ${t.status} = 'complete'`),
  ],
);

/** A leased port and the qemu-nbd behind it. The row stands before the process starts, and until it is known dead. */
export const nbdExports = pgTable(
  'nbd_exports',
  {
    host: text('host').notNull(),
    port: integer('port').notNull(),
    jobId: uuid('job_id')
      .notNull()
      .references(() => backupJobs.id, { onDelete: 'cascade' }),
    diskId: uuid('disk_id')
      .notNull()
      .references(() => backupDisks.id, { onDelete: 'cascade' }),
    exportName: text('export_name').notNull(),
    /** Where qemu-nbd writes its pid: finds a process whose identity was never recorded. */
    pidFile: text('pid_file'),
    pid: integer('pid'),
    /** Field 22 of /proc/PID/stat: tells a process from a later one with the same pid. */
    startTime: text('start_time'),
    bootId: text('boot_id'),
    /** The nbdcopy that writes to this export. */
    copyPid: integer('copy_pid'),
    copyStartTime: text('copy_start_time'),
    copyBootId: text('copy_boot_id'),
    acquiredAt: instant('acquired_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'nbd_exports_host_port', columns: [t.host, t.port] }),
    unique('nbd_exports_disk').on(t.diskId),
    index('nbd_exports_job').on(t.jobId),
    check('nbd_exports_port', sql`${t.port} between 1 and 65535`),
    check(
      'nbd_exports_identity',
      sql`(${t.pid} is null) = (${t.startTime} is null) and (${t.pid} is null) = (${t.bootId} is null)`,
    ),
    check(
      'nbd_exports_copy_identity',
      sql`(${t.copyPid} is null) = (${t.copyStartTime} is null) and (${t.copyPid} is null) = (${t.copyBootId} is null)`,
    ),
  ],
);
