import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { compareWithWitness, witnessed } from '../../demo/witness.js';
import type { BackupVMRequest } from '../../src/domain/backup-input.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import type { World } from '../support/world.js';
import { virsh, type BiosDomain } from './bios-domain.js';

/** The images of a VM's QCOW2 disks, by disk key. */
export interface WitnessedVM {
  name: string;
  vmId: string;
  disks: { key: string; image: string }[];
}

/** Backs a VM up, and compares each disk of the restore point, whole, with what it held at that moment. */
export async function backUpAndCompare(
  world: World,
  vm: WitnessedVM,
  input: Partial<BackupVMRequest> = {},
): Promise<BackupVMResult> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-witness-'));
  try {
    let result: BackupVMResult | undefined;
    const disks = vm.disks.map(({ key, image }) => ({ target: key, image }));
    // By its id: a name may look like an option.
    await witnessed({ name: vm.vmId }, disks, directory, async () => {
      result = await world.backUp({ vm: vm.name, ...input });
    });
    if (!result) throw new Error(`the backup of ${vm.name} gave no result`);
    for (const { key, path } of result.disks) {
      if (!vm.disks.some((disk) => disk.key === key)) continue;
      const restored = join(directory, `${key}.restored`);
      await compareWithWitness(join(world.repository.path, path), join(directory, `${key}.raw`), restored);
    }
    return result;
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** `key: type: reason` of each disk. */
export function plansOf(result: BackupVMResult): Record<string, string> {
  return Object.fromEntries(result.disks.map(({ key, type, reason }) => [key, `${type}: ${reason}`]));
}

/** The guest runs, nothing is open on it, and it has the checkpoints that the next incrementals start from, and no others. */
export async function expectUntouchedGuest(world: World, domain: Pick<BiosDomain, 'vmId'>): Promise<void> {
  expect((await virsh('domstate', domain.vmId)).trim()).toBe('running');
  expect(await virsh('domjobinfo', domain.vmId)).toMatch(/Job type: +None/);
  const { rows } = await world.database.pool.query<{ change_id: string }>(
    `select distinct d.change_id from backup_disks d join vm_backup_contexts c on c.id = d.context_id
     where c.vm_id = $1 and d.is_head and d.change_id is not null`,
    [domain.vmId],
  );
  expect(await checkpointsOf(domain)).toEqual(rows.map(({ change_id }) => change_id).sort());
}

/** The names of a VM's checkpoints. */
export async function checkpointsOf({ vmId }: Pick<BiosDomain, 'vmId'>): Promise<string[]> {
  return (await virsh('checkpoint-list', vmId, '--name')).split(/\s+/).filter(Boolean).sort();
}

/** What the hypervisor has to know of a restore point: one name for all of its disks. */
export async function changeIdsOf({ database }: World, jobId: string): Promise<string[]> {
  const { rows } = await database.pool.query<{ changeId: string }>(
    `select distinct change_id as "changeId" from backup_disks where job_id = $1`,
    [jobId],
  );
  expect(rows).toHaveLength(1);
  return rows.map(({ changeId }) => changeId);
}
