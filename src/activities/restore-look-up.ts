import { chooseHypervisor, getHypervisor } from '../db/hypervisors.js';
import type { Database } from '../db/database.js';
import { findPoint } from '../db/points.js';
import { BackupError } from '../domain/errors.js';
import type { RestoreTarget } from '../domain/restore-input.js';

/** The restore point that is meant, and where it goes. */
export interface RestoreSubject {
  pointId: string;
  /** ISO 8601. */
  pointTime: string;
  contextId: string;
  vmName: string;
  /** The repository's: every file is written there. */
  host: string;
  /** Where a VM is defined, or has its disks replaced; null where there are files only. */
  hypervisorId: string | null;
}

export interface RestoreLookUp {
  point?: string | undefined;
  vm?: string | undefined;
  at?: string | undefined;
  hypervisor?: string | undefined;
  repository?: string | undefined;
  target: RestoreTarget;
}

export function createRestoreLookUpActivities({ db }: { db: Database }) {
  return {
    /** Finds the restore point that the input means, and the hypervisor of its target. */
    async lookUpRestore(input: RestoreLookUp): Promise<RestoreSubject> {
      const { at, target, ...query } = input;
      const { job, context, repository } = await findPoint(db, { ...query, at: at === undefined ? at : new Date(at) });
      const hypervisor = await targetHypervisor(target, context.hypervisorId);
      if (hypervisor && hypervisor.host !== repository.host) {
        throw new BackupError(
          'WrongHost',
          `Restore point ${job.id} lies on host '${repository.host}', hypervisor '${hypervisor.name}' is used on host '${hypervisor.host}'; restore to files, and bring them there`,
        );
      }
      return {
        pointId: job.id,
        pointTime: job.pointTime.toISOString(),
        contextId: context.id,
        vmName: context.vmName,
        host: repository.host,
        hypervisorId: hypervisor?.id ?? null,
      };
    },
  };

  async function targetHypervisor(target: RestoreTarget, ofPoint: string) {
    if (target.kind === 'files') return null;
    const chosen = target.kind === 'vm' ? target.hypervisor : undefined;
    return chosen === undefined ? getHypervisor(db, ofPoint) : chooseHypervisor(db, chosen);
  }
}

export type RestoreLookUpActivities = ReturnType<typeof createRestoreLookUpActivities>;
