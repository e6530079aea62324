import { getHypervisor } from '../db/hypervisors.js';
import { getRepository } from '../db/repositories.js';
import { probeRepository } from '../repository/marker.js';
import type { VMDescription } from '../sources/source.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { requireHost } from './job-rows.js';
import { requireCurrent } from './repository-epoch.js';

export interface Probe {
  vm: VMDescription;
  freeBytes: number;
  /** The range of this host's configuration. */
  ports: { first: number; last: number };
}

export function createProbeActivities({ db, host, nbdPorts, createSource }: HostDependencies) {
  return {
    /** Asks the host before anything is made: who the VM is, and whether the repository is there and can be written. */
    async probeHost(input: { hypervisorId: string; repositoryId: string; vm: string }): Promise<Probe> {
      return heartbeating(async (signal) => {
        const hypervisor = await getHypervisor(db, input.hypervisorId);
        const repository = await getRepository(db, input.repositoryId);
        requireHost(host, hypervisor);
        requireHost(host, repository);
        const { freeBytes } = await probeRepository(repository.path, repository.id);
        await requireCurrent(db, repository);
        const vm = await createSource(hypervisor).describeVM(input.vm, signal);
        return { vm, freeBytes, ports: nbdPorts };
      });
    },
  };
}

export type ProbeActivities = ReturnType<typeof createProbeActivities>;
