import { changeIdsInUse, forgetAllChangeIds } from '../db/forget-change-ids.js';
import { getHypervisor } from '../db/hypervisors.js';
import { BackupError } from '../domain/errors.js';
import { changeIdOf } from '../sources/source.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { requireHost } from './job-rows.js';

export function createForgetActivities({ db, host, createSource }: HostDependencies) {
  return {
    /**
     * Makes a hypervisor forget all change ids of a VM, also those that no row knows, and records it first: the next backup of each
     * disk is a full. May run twice. Change ids of a backup that began meanwhile stay.
     */
    async forgetChangeIds(input: { hypervisorId: string; vm: string }): Promise<{ vmId: string; forgotten: string[] }> {
      return heartbeating(async (signal) => {
        const hypervisor = await getHypervisor(db, input.hypervisorId);
        requireHost(host, hypervisor);
        const source = createSource(hypervisor);
        const known = await source.listVMs(signal);
        const vmId = known.find(({ name }) => name === input.vm)?.vmId;
        if (vmId === undefined) {
          throw new BackupError('VMNotFound', `cannot find VM '${input.vm}' on hypervisor '${hypervisor.name}'`);
        }
        const vm = { hypervisorId: hypervisor.id, vmId };
        const found = await source.listChangeIds(vmId, signal); // before anything is recorded: whoever cannot say, cannot forget
        await forgetAllChangeIds(db, vm);
        const inUse = await changeIdsInUse(db, vm);
        const kept = new Set([...inUse.changeIds, ...inUse.snapshotIds.map(changeIdOf)]);
        const forgotten = found.filter((changeId) => !kept.has(changeId));
        await source.dropChangeIds(vmId, forgotten, signal);
        const left = (await source.listChangeIds(vmId, signal)).filter((changeId) => forgotten.includes(changeId));
        if (left.length > 0) {
          throw new BackupError(
            'SourceFailed',
            `VM '${input.vm}' still has the change ids ${left.join(', ')}; shut it down, and run 'backupvm vm forget' again`,
          );
        }
        return { vmId, forgotten };
      });
    },
  };
}

export type ForgetActivities = ReturnType<typeof createForgetActivities>;
