CREATE TABLE "backup_disks" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"job_id" uuid NOT NULL,
	"context_id" uuid NOT NULL,
	"parent_id" uuid,
	"disk_key" text NOT NULL,
	"target" text NOT NULL,
	"identity" text NOT NULL,
	"status" text DEFAULT 'planned' NOT NULL,
	"type" text NOT NULL,
	"reason" text NOT NULL,
	"size_bytes" bigint NOT NULL,
	"was_encrypted" boolean DEFAULT false NOT NULL,
	"changed_bytes" bigint DEFAULT 0 NOT NULL,
	"written_bytes" bigint DEFAULT 0 NOT NULL,
	"change_id" text,
	"source_uri" text,
	"dirty_context" text,
	"path" text NOT NULL,
	"attempt_path" text,
	"file_bytes" bigint,
	"file_modified_ms" bigint,
	"checksum" text,
	"nbd_port" integer,
	"is_head" boolean DEFAULT false NOT NULL,
	"is_restored_over" boolean DEFAULT false NOT NULL,
	"is_forgotten" boolean DEFAULT false NOT NULL,
	"damage" text,
	"hashes_checksum" text,
	"started_at" timestamp with time zone,
	"finished_at" timestamp with time zone,
	CONSTRAINT "backup_disks_job_disk" UNIQUE("job_id","disk_key"),
	CONSTRAINT "backup_disks_path" UNIQUE("context_id","path"),
	CONSTRAINT "backup_disks_status" CHECK ("backup_disks"."status" in ('planned', 'copying', 'copied', 'complete')),
	CONSTRAINT "backup_disks_type" CHECK ("backup_disks"."type" in ('full', 'incremental')),
	CONSTRAINT "backup_disks_parent_of_incremental" CHECK (("backup_disks"."type" = 'incremental' or "backup_disks"."parent_id" is null) and ("backup_disks"."type" = 'full' or "backup_disks"."parent_id" is not null or "backup_disks"."status" <> 'complete')),
	CONSTRAINT "backup_disks_size" CHECK ("backup_disks"."size_bytes" > 0 and "backup_disks"."changed_bytes" >= 0 and "backup_disks"."written_bytes" >= 0),
	CONSTRAINT "backup_disks_complete" CHECK ("backup_disks"."status" <> 'complete' or ("backup_disks"."checksum" is not null and "backup_disks"."hashes_checksum" is not null and "backup_disks"."file_bytes" is not null and "backup_disks"."file_modified_ms" is not null and "backup_disks"."attempt_path" is null)),
	CONSTRAINT "backup_disks_head" CHECK (not "backup_disks"."is_head" or "backup_disks"."status" = 'complete')
);
--> statement-breakpoint
CREATE TABLE "backup_jobs" (
	"id" uuid PRIMARY KEY NOT NULL,
	"context_id" uuid NOT NULL,
	"workflow_id" text NOT NULL,
	"run_id" text NOT NULL,
	"namespace_id" text,
	"status" text DEFAULT 'running' NOT NULL,
	"point_time" timestamp with time zone NOT NULL,
	"snapshot_ids" uuid[] DEFAULT '{}' NOT NULL,
	"consistency" text,
	"vm_config" text,
	"warnings" text[] DEFAULT '{}' NOT NULL,
	"error" text,
	"clean_up" text DEFAULT 'pending' NOT NULL,
	"clean_up_error" text,
	"hold" text,
	"immutable_until" timestamp with time zone,
	"started_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone,
	CONSTRAINT "backup_jobs_run" UNIQUE("workflow_id","run_id"),
	CONSTRAINT "backup_jobs_point_time" UNIQUE("context_id","point_time"),
	CONSTRAINT "backup_jobs_id_context" UNIQUE("id","context_id"),
	CONSTRAINT "backup_jobs_status" CHECK ("backup_jobs"."status" in ('running', 'aborting', 'complete', 'deleting', 'failed', 'cancelled')),
	CONSTRAINT "backup_jobs_namespace" CHECK ("backup_jobs"."namespace_id" is not null or "backup_jobs"."status" in ('complete', 'deleting')),
	CONSTRAINT "backup_jobs_clean_up" CHECK ("backup_jobs"."clean_up" in ('pending', 'done')),
	CONSTRAINT "backup_jobs_consistency" CHECK ("backup_jobs"."consistency" in ('application', 'filesystem', 'crash')),
	CONSTRAINT "backup_jobs_finished" CHECK (("backup_jobs"."status" in ('running', 'aborting')) = ("backup_jobs"."finished_at" is null))
);
--> statement-breakpoint
CREATE TABLE "hosts" (
	"name" text PRIMARY KEY NOT NULL,
	"machine_id" text NOT NULL,
	"claimed_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "hypervisors" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"name" text NOT NULL,
	"kind" text NOT NULL,
	"uri" text NOT NULL,
	"host" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "hypervisors_name_unique" UNIQUE("name"),
	CONSTRAINT "hypervisors_host_uri" UNIQUE("host","uri"),
	CONSTRAINT "hypervisors_kind" CHECK ("hypervisors"."kind" in ('libvirt', 'qmp'))
);
--> statement-breakpoint
CREATE TABLE "nbd_exports" (
	"host" text NOT NULL,
	"port" integer NOT NULL,
	"job_id" uuid NOT NULL,
	"disk_id" uuid NOT NULL,
	"export_name" text NOT NULL,
	"pid_file" text,
	"pid" integer,
	"start_time" text,
	"boot_id" text,
	"copy_pid" integer,
	"copy_start_time" text,
	"copy_boot_id" text,
	"acquired_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "nbd_exports_host_port" PRIMARY KEY("host","port"),
	CONSTRAINT "nbd_exports_disk" UNIQUE("disk_id"),
	CONSTRAINT "nbd_exports_port" CHECK ("nbd_exports"."port" between 1 and 65535),
	CONSTRAINT "nbd_exports_identity" CHECK (("nbd_exports"."pid" is null) = ("nbd_exports"."start_time" is null) and ("nbd_exports"."pid" is null) = ("nbd_exports"."boot_id" is null)),
	CONSTRAINT "nbd_exports_copy_identity" CHECK (("nbd_exports"."copy_pid" is null) = ("nbd_exports"."copy_start_time" is null) and ("nbd_exports"."copy_pid" is null) = ("nbd_exports"."copy_boot_id" is null))
);
--> statement-breakpoint
CREATE TABLE "repositories" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"name" text NOT NULL,
	"host" text NOT NULL,
	"path" text NOT NULL,
	"immutable_until" timestamp with time zone,
	"epoch" bigint DEFAULT 0 NOT NULL,
	"registration_id" uuid DEFAULT gen_random_uuid() NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "repositories_name_unique" UNIQUE("name"),
	CONSTRAINT "repositories_host_path" UNIQUE("host","path")
);
--> statement-breakpoint
CREATE TABLE "vm_backup_contexts" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"repository_id" uuid NOT NULL,
	"hypervisor_id" uuid NOT NULL,
	"vm_id" text NOT NULL,
	"vm_name" text NOT NULL,
	"directory" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "vm_backup_contexts_vm_repository" UNIQUE("hypervisor_id","vm_id","repository_id"),
	CONSTRAINT "vm_backup_contexts_directory" UNIQUE("repository_id","directory")
);
--> statement-breakpoint
CREATE TABLE "chain_leases" (
	"id" uuid PRIMARY KEY NOT NULL,
	"context_id" uuid NOT NULL,
	"mode" text NOT NULL,
	"purpose" text NOT NULL,
	"workflow_id" text NOT NULL,
	"run_id" text NOT NULL,
	"namespace_id" text NOT NULL,
	"deletes_context" boolean DEFAULT false NOT NULL,
	"clean_up_error" text,
	"acquired_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "chain_leases_mode" CHECK ("chain_leases"."mode" in ('shared', 'exclusive')),
	CONSTRAINT "chain_leases_purpose" CHECK ("chain_leases"."purpose" in ('restore', 'verify', 'delete', 'prune'))
);
--> statement-breakpoint
CREATE TABLE "merges" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"lease_id" uuid NOT NULL,
	"base_id" uuid NOT NULL,
	"successor_id" uuid NOT NULL,
	"phase" text DEFAULT 'committing' NOT NULL,
	"merged_checksum" text,
	"merged_bytes" bigint,
	"pid" integer,
	"start_time" text,
	"boot_id" text,
	CONSTRAINT "merges_base" UNIQUE("base_id"),
	CONSTRAINT "merges_successor" UNIQUE("successor_id"),
	CONSTRAINT "merges_phase" CHECK ("merges"."phase" in ('committing', 'replacing')),
	CONSTRAINT "merges_replacing" CHECK ("merges"."phase" = 'committing' or ("merges"."merged_checksum" is not null and "merges"."merged_bytes" is not null))
);
--> statement-breakpoint
CREATE TABLE "protection_changes" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"changed_at" timestamp with time zone DEFAULT now() NOT NULL,
	"changed_by" text NOT NULL,
	"kind" text NOT NULL,
	"job_id" uuid,
	"repository_id" uuid,
	"before" text,
	"after" text,
	"reason" text,
	CONSTRAINT "protection_changes_kind" CHECK ("protection_changes"."kind" in ('hold', 'release', 'immutable_until'))
);
--> statement-breakpoint
CREATE TABLE "restore_disks" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"lease_id" uuid NOT NULL,
	"backup_disk_id" uuid NOT NULL,
	"host" text NOT NULL,
	"path" text NOT NULL,
	"format" text NOT NULL,
	"attempt_path" text NOT NULL,
	"kept_path" text,
	"status" text DEFAULT 'planned' NOT NULL,
	"written_bytes" bigint DEFAULT 0 NOT NULL,
	"pid" integer,
	"start_time" text,
	"boot_id" text,
	CONSTRAINT "restore_disks_host_path" UNIQUE("host","path"),
	CONSTRAINT "restore_disks_format" CHECK ("restore_disks"."format" in ('qcow2', 'raw')),
	CONSTRAINT "restore_disks_status" CHECK ("restore_disks"."status" in ('planned', 'writing', 'written', 'placed'))
);
--> statement-breakpoint
CREATE TABLE "restores" (
	"lease_id" uuid PRIMARY KEY NOT NULL,
	"job_id" uuid NOT NULL,
	"target" text NOT NULL,
	"hypervisor_id" uuid,
	"vm_id" text,
	"vm_name" text,
	"overwrite" boolean NOT NULL,
	"keep_replaced_seconds" integer NOT NULL,
	"phase" text DEFAULT 'writing' NOT NULL,
	CONSTRAINT "restores_target" CHECK ("restores"."target" in ('files', 'vm', 'in-place')),
	CONSTRAINT "restores_phase" CHECK ("restores"."phase" in ('writing', 'placing', 'undoing'))
);
--> statement-breakpoint
CREATE TABLE "retention_policies" (
	"context_id" uuid PRIMARY KEY NOT NULL,
	"keep_last" integer,
	"keep_hourly" integer,
	"keep_daily" integer,
	"keep_weekly" integer,
	"keep_monthly" integer,
	"keep_yearly" integer,
	"time_zone" text NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "retention_policies_counts" CHECK (coalesce(least("retention_policies"."keep_last", "retention_policies"."keep_hourly", "retention_policies"."keep_daily", "retention_policies"."keep_weekly", "retention_policies"."keep_monthly", "retention_policies"."keep_yearly"), 0) > 0)
);
--> statement-breakpoint
CREATE TABLE "kept_disks" (
	"id" uuid PRIMARY KEY DEFAULT gen_random_uuid() NOT NULL,
	"host" text NOT NULL,
	"path" text NOT NULL,
	"kept_path" text NOT NULL,
	"restore_id" uuid NOT NULL,
	"job_id" uuid,
	"vm_name" text NOT NULL,
	"target" text NOT NULL,
	"inode" text NOT NULL,
	"file_bytes" bigint NOT NULL,
	"file_modified_ms" bigint NOT NULL,
	"keep_seconds" integer NOT NULL,
	"kept_at" timestamp with time zone DEFAULT now() NOT NULL,
	"kept_until" timestamp with time zone,
	"problem" text,
	CONSTRAINT "kept_disks_host_kept_path" UNIQUE("host","kept_path"),
	CONSTRAINT "kept_disks_target" CHECK ("kept_disks"."target" in ('files', 'vm', 'in-place')),
	CONSTRAINT "kept_disks_keep_seconds" CHECK ("kept_disks"."keep_seconds" > 0)
);
--> statement-breakpoint
CREATE TABLE "installations" (
	"is_only" boolean PRIMARY KEY DEFAULT true NOT NULL,
	"namespace_id" text NOT NULL,
	"namespace" text NOT NULL,
	"recorded_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "installations_one_row" CHECK ("installations"."is_only")
);
--> statement-breakpoint
CREATE TABLE "lost_namespaces" (
	"namespace_id" text PRIMARY KEY NOT NULL,
	"given_up_by" text NOT NULL,
	"given_up_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "backup_disks" ADD CONSTRAINT "backup_disks_context_id_vm_backup_contexts_id_fk" FOREIGN KEY ("context_id") REFERENCES "public"."vm_backup_contexts"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "backup_disks" ADD CONSTRAINT "backup_disks_job" FOREIGN KEY ("job_id","context_id") REFERENCES "public"."backup_jobs"("id","context_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "backup_disks" ADD CONSTRAINT "backup_disks_parent" FOREIGN KEY ("parent_id") REFERENCES "public"."backup_disks"("id") ON DELETE restrict ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "backup_jobs" ADD CONSTRAINT "backup_jobs_context_id_vm_backup_contexts_id_fk" FOREIGN KEY ("context_id") REFERENCES "public"."vm_backup_contexts"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "nbd_exports" ADD CONSTRAINT "nbd_exports_job_id_backup_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."backup_jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "nbd_exports" ADD CONSTRAINT "nbd_exports_disk_id_backup_disks_id_fk" FOREIGN KEY ("disk_id") REFERENCES "public"."backup_disks"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "vm_backup_contexts" ADD CONSTRAINT "vm_backup_contexts_repository_id_repositories_id_fk" FOREIGN KEY ("repository_id") REFERENCES "public"."repositories"("id") ON DELETE restrict ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "vm_backup_contexts" ADD CONSTRAINT "vm_backup_contexts_hypervisor_id_hypervisors_id_fk" FOREIGN KEY ("hypervisor_id") REFERENCES "public"."hypervisors"("id") ON DELETE restrict ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "chain_leases" ADD CONSTRAINT "chain_leases_context_id_vm_backup_contexts_id_fk" FOREIGN KEY ("context_id") REFERENCES "public"."vm_backup_contexts"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "merges" ADD CONSTRAINT "merges_lease_id_chain_leases_id_fk" FOREIGN KEY ("lease_id") REFERENCES "public"."chain_leases"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "merges" ADD CONSTRAINT "merges_base_id_backup_disks_id_fk" FOREIGN KEY ("base_id") REFERENCES "public"."backup_disks"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "merges" ADD CONSTRAINT "merges_successor_id_backup_disks_id_fk" FOREIGN KEY ("successor_id") REFERENCES "public"."backup_disks"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "protection_changes" ADD CONSTRAINT "protection_changes_repository_id_repositories_id_fk" FOREIGN KEY ("repository_id") REFERENCES "public"."repositories"("id") ON DELETE set null ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "restore_disks" ADD CONSTRAINT "restore_disks_lease_id_restores_lease_id_fk" FOREIGN KEY ("lease_id") REFERENCES "public"."restores"("lease_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "restore_disks" ADD CONSTRAINT "restore_disks_backup_disk_id_backup_disks_id_fk" FOREIGN KEY ("backup_disk_id") REFERENCES "public"."backup_disks"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "restores" ADD CONSTRAINT "restores_lease_id_chain_leases_id_fk" FOREIGN KEY ("lease_id") REFERENCES "public"."chain_leases"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "restores" ADD CONSTRAINT "restores_job_id_backup_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."backup_jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "restores" ADD CONSTRAINT "restores_hypervisor_id_hypervisors_id_fk" FOREIGN KEY ("hypervisor_id") REFERENCES "public"."hypervisors"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "retention_policies" ADD CONSTRAINT "retention_policies_context_id_vm_backup_contexts_id_fk" FOREIGN KEY ("context_id") REFERENCES "public"."vm_backup_contexts"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "kept_disks" ADD CONSTRAINT "kept_disks_job_id_backup_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."backup_jobs"("id") ON DELETE set null ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "backup_disks_one_head" ON "backup_disks" USING btree ("context_id","disk_key") WHERE "backup_disks"."is_head";--> statement-breakpoint
CREATE INDEX "backup_disks_parent_id" ON "backup_disks" USING btree ("parent_id");--> statement-breakpoint
CREATE UNIQUE INDEX "backup_jobs_one_running" ON "backup_jobs" USING btree ("context_id") WHERE "backup_jobs"."status" in ('running', 'aborting');--> statement-breakpoint
CREATE INDEX "nbd_exports_job" ON "nbd_exports" USING btree ("job_id");--> statement-breakpoint
CREATE INDEX "vm_backup_contexts_name" ON "vm_backup_contexts" USING btree ("vm_name");--> statement-breakpoint
CREATE INDEX "chain_leases_context" ON "chain_leases" USING btree ("context_id");--> statement-breakpoint
CREATE UNIQUE INDEX "chain_leases_one_exclusive" ON "chain_leases" USING btree ("context_id") WHERE "chain_leases"."mode" = 'exclusive';--> statement-breakpoint
CREATE INDEX "protection_changes_job" ON "protection_changes" USING btree ("job_id");--> statement-breakpoint
CREATE INDEX "restore_disks_lease" ON "restore_disks" USING btree ("lease_id");--> statement-breakpoint
CREATE INDEX "kept_disks_job" ON "kept_disks" USING btree ("job_id");--> statement-breakpoint
CREATE INDEX "kept_disks_restore" ON "kept_disks" USING btree ("restore_id");