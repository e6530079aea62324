import { afterAll, beforeAll, test } from 'vitest';
import type { RestoreVMRequest } from '../../src/domain/restore-input.js';
import { startBiosDomain, virsh, type BiosDomain } from '../libvirt/bios-domain.js';
import { startRestore, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { keepHistory } from './keep-history.js';

// Restores that only a hypervisor takes which defines VMs. Not a test of the suite: see record.config.ts.

const MiB = 1024 * 1024;
const name = 'backupvm-test-restored';

let world: World;
let vm: BiosDomain;
beforeAll(async () => {
  world = await createWorld('record-vm-restores', { hypervisor: 'libvirt' });
  vm = await startBiosDomain([
    { key: 'root-serial', target: 'vda', sizeBytes: 4 * MiB },
    { key: 'vdb', target: 'vdb', sizeBytes: 2 * MiB },
  ]);
  await vm.guestIO('root-serial', 'write -P 0x11 0 1M');
  await world.backUp({ vm: vm.name });
});
afterAll(async () => {
  await virsh('destroy', name).catch(() => '');
  await virsh('undefine', name).catch(() => '');
  await vm?.dispose();
  await world?.close();
});

async function record(target: RestoreVMRequest['target'], caseName: string): Promise<void> {
  const handle = await startRestore(world, { vm: vm.name, target });
  await handle.result();
  const { workflowId, runId } = await handle.describe();
  await keepHistory(world.client, { workflowId, runId }, caseName);
}

test('to a new VM, which is started', async () => {
  await record({ kind: 'vm', name, directory: await targetDirectory(world, 'new'), start: true }, 'new-vm-started');
});

test('in place', async () => {
  await virsh('destroy', vm.vmId);
  await record({ kind: 'in-place' }, 'in-place');
});
