import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { restartLibvirtd } from '../../demo/libvirtd.js';
import { mainQueue } from '../../src/workflows/messages.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { ownProcesses } from '../support/end-state.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { startBiosDomain, type BiosDisk, type BiosDomain } from './bios-domain.js';
import { backUpAndCompare, expectUntouchedGuest, plansOf } from './libvirt-backup.js';

// The rows of the fault table that need libvirt. That its QEMU is killed, and the backup cancelled: backup-vm.test.ts.

const disk: BiosDisk = { key: 'root-serial', target: 'vda', sizeBytes: 8 * 1024 * 1024 };

let world: World;
let domain: BiosDomain;
beforeAll(async () => {
  world = await createWorld('libvirt-faults', { hypervisor: 'libvirt' });
});
afterEach(async () => {
  try {
    await expectNothingLeftBehind(world);
    await expectUntouchedGuest(world, domain);
  } finally {
    await domain.dispose();
  }
});
afterAll(() => world.close());

const backUp = () =>
  backUpAndCompare(world, {
    name: domain.name,
    vmId: domain.vmId,
    disks: [{ key: disk.key, image: domain.imageOf(disk.key) }],
  });

/** A VM with a sealed full, and a second backup whose copy hangs: what it writes to has been stopped. */
async function holdCopy(): Promise<{ workflowId: string; resume: () => void }> {
  domain = await startBiosDomain([disk]);
  await domain.guestIO(disk.key, 'write -P 0x11 0 4M');
  await backUp();
  await domain.guestIO(disk.key, 'write -P 0x22 2M 4M');
  const { workflowId } = await world.start({ vm: domain.name }, 'backup-vm/faulty');
  const pid = await until('the export', async () => {
    const { rows } = await world.database.pool.query<{ pid: number }>(
      `select pid from nbd_exports where pid is not null`,
    );
    if (rows[0]) process.kill(rows[0].pid, 'SIGSTOP');
    return rows[0]?.pid;
  });
  await until('the copy', async () => (await ownProcesses(world)).some(({ program }) => program === 'nbdcopy'));
  return { workflowId, resume: () => process.kill(pid, 'SIGCONT') };
}

describe('in the middle of a copy under libvirt', () => {
  test('libvirtd is restarted: the copy goes on, and the backup completes', async () => {
    const { workflowId, resume } = await holdCopy();
    await restartLibvirtd();
    resume();
    await world.client.workflow.getHandle(workflowId).result();
    await expectNothingLeftBehind(world);
    expect(plansOf(await backUp())).toEqual({ 'root-serial': 'incremental: parent_good' });
  });

  test('the workflow is terminated: ReconcileHost ends the backup job and drops the checkpoint', async () => {
    const { workflowId, resume } = await holdCopy();
    await world.client.workflow.getHandle(workflowId).terminate('by the test');
    resume();
    const { host } = world.config;
    await world.client.workflow.execute('ReconcileHost', {
      taskQueue: mainQueue,
      workflowId: `reconcile/${host}`,
      args: [{ host }],
    });
    await expectNothingLeftBehind(world);
    expect(plansOf(await backUp())).toEqual({ 'root-serial': 'incremental: parent_good' });
  });
});
