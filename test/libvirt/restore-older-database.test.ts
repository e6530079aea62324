import { randomUUID } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { cleanUpLease } from '../../src/activities/clean-up-lease.js';
import { acquireChainLease } from '../../src/db/chain-leases.js';
import { getContext } from '../../src/db/contexts.js';
import { listDisks } from '../../src/db/disks.js';
import { getJob } from '../../src/db/jobs.js';
import { insertRestore } from '../../src/db/restores.js';
import { restoreSiblings } from '../../src/domain/names.js';
import { readMachineId } from '../../src/process/machine-id.js';
import { createSource } from '../../src/sources/connect.js';
import { namespaceOf } from '../support/job.js';
import { expectNoRestoreLeft, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { startBiosDomain, virsh, type BiosDomain } from './bios-domain.js';

// A restore that completed, and the rows of it from before that: the database was put back to that moment.

const MiB = 1024 * 1024;
let world: World;
let vm: BiosDomain;
let pointId: string;
const name = `backupvm-test-older-${randomUUID().slice(0, 8)}`;
/** Of the restored VM. */
let copyId: string;
let directory: string;
let files: string[];

beforeAll(async () => {
  world = await createWorld('libvirt-older-database', { hypervisor: 'libvirt' });
  vm = await startBiosDomain([{ key: 'root-serial', target: 'vda', sizeBytes: MiB }]);
  await vm.guestIO('root-serial', 'write -P 0x11 0 64k');
  pointId = (await world.backUp({ vm: vm.name })).jobId;
  directory = await targetDirectory(world, 'out');
  copyId = (await restoreVM(world, { point: pointId, target: { kind: 'vm', name, directory } })).vm?.id ?? '';
  files = await readdir(directory);
});
afterEach(async () => {
  await virsh('destroy', copyId).catch(() => '');
});
afterAll(async () => {
  await virsh('undefine', copyId).catch(() => '');
  await vm?.dispose();
  await world?.close();
});

interface Rows {
  target: 'vm' | 'in-place';
  phase: 'writing' | 'placing';
  vmId: string;
  path: string;
}

/** The rows of a restore of one disk. @returns its lease, and where its unfinished file was */
async function bringBack({ target, phase, vmId, path }: Rows): Promise<{ leaseId: string; attemptPath: string }> {
  const { db, pool } = world.database;
  const leaseId = randomUUID();
  const { attemptPath } = restoreSiblings(path, leaseId, 'vda');
  const { contextId } = await getJob(db, pointId);
  const lease = { id: leaseId, contextId, mode: 'shared', purpose: 'restore', workflowId: 'w', runId: 'r' } as const;
  expect(await acquireChainLease(db, lease, await namespaceOf(db))).toEqual([]);
  const { hypervisorId } = await getContext(db, contextId);
  const restore = { leaseId, jobId: pointId, target, hypervisorId, vmId, vmName: 'old name', overwrite: true };
  const [disk] = await listDisks(db, pointId);
  const files = { backupDiskId: disk?.id ?? '', path, format: 'qcow2' as const, attemptPath, keptPath: null };
  await insertRestore(db, { ...restore, keepReplacedSeconds: 0 }, [files], world.config.host);
  await pool.query(`update restores set phase = $2 where lease_id = $1`, [leaseId, phase]);
  await pool.query(`update restore_disks set status = 'written' where lease_id = $1`, [leaseId]);
  return { leaseId, attemptPath };
}

function cleanUp(leaseId: string): Promise<void> {
  const { config, database } = world;
  const dependencies = {
    ...config,
    ...{ db: database.db, machineId: readMachineId() },
    createSource: (hypervisor: { kind: 'libvirt' | 'qmp'; uri: string }) => createSource(hypervisor, config.scratchDir),
  };
  return cleanUpLease(dependencies, leaseId, AbortSignal.timeout(100_000));
}

const stateOf = async (vmId: string) => (await virsh('domstate', vmId)).trim();
const copiedFile = () => `${directory}/${files[0]}`;

test.each(['writing', 'placing'] as const)(
  'a new VM that is shut off and whose disks have their names (%s) stays as it is, its name too',
  async (phase) => {
    const { leaseId } = await bringBack({ target: 'vm', phase, vmId: copyId, path: copiedFile() });
    await cleanUp(leaseId);
    expect(await stateOf(copyId)).toBe('shut off');
    expect((await virsh('domname', copyId)).trim()).toBe(name);
    await expectNoRestoreLeft(world, directory, files);
  },
);

test('a new VM that runs is never undefined, also where an unfinished file is there', async () => {
  await virsh('start', copyId);
  const { leaseId, attemptPath } = await bringBack({
    ...{ target: 'vm', phase: 'writing', vmId: copyId, path: copiedFile() },
  });
  await writeFile(attemptPath, '');
  await cleanUp(leaseId);
  expect(await stateOf(copyId)).toBe('running');
  await virsh('destroy', copyId);
  expect(await stateOf(copyId)).toBe('shut off'); // defined still
  await expectNoRestoreLeft(world, directory, files);
});

test('a VM whose disks were replaced in place and that runs since does not keep its lease', async () => {
  const path = vm.imageOf('root-serial');
  const { leaseId } = await bringBack({ target: 'in-place', phase: 'placing', vmId: vm.vmId, path });
  await cleanUp(leaseId);
  expect(await stateOf(vm.vmId)).toBe('running');
  await expectNoRestoreLeft(world, directory, files);
});

test('a new VM of which nothing is left to place, since somebody moved its disks, does not keep its lease', async () => {
  const { leaseId } = await bringBack({
    target: 'vm',
    phase: 'placing',
    vmId: randomUUID(),
    path: `${directory}/none`,
  });
  await cleanUp(leaseId);
  await expectNoRestoreLeft(world, directory, files);
});
