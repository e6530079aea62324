import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { BackupVMRequest } from '../../src/domain/backup-input.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { createWorld, type World } from '../support/world.js';
import { startBiosDomain, virsh, type BiosDisk, type BiosDomain } from './bios-domain.js';
import { checkpointsOf, plansOf } from './libvirt-backup.js';

const MiB = 1024 * 1024;
const plain: BiosDisk = { key: 'plain', target: 'vdb', sizeBytes: 2 * MiB };

let world: World;
let domain: BiosDomain;
beforeAll(async () => {
  world = await createWorld('libvirt-iothreads', { hypervisor: 'libvirt' });
});
afterEach(async () => {
  try {
    await expectNothingLeftBehind(world);
  } finally {
    await domain.dispose();
  }
});
afterAll(() => world.close());

const stateOf = async () => (await virsh('domstate', domain.vmId)).trim();

interface Failure {
  type: string;
  message: string;
}

async function failureOf(input: Partial<BackupVMRequest> = {}): Promise<Failure> {
  const outcome = await world.backUp({ vm: domain.name, ...input }).then(
    () => undefined,
    (error: unknown) => (error as { cause: Failure }).cause,
  );
  return outcome ?? expect.fail('expected the backup to be refused, found it complete');
}

describe('a VM on a QEMU that is not known to be safe with iothreads', () => {
  test.each<[string, BiosDisk, RegExp]>([
    ['whose disk has an iothread', { key: 'vda', target: 'vda', sizeBytes: 64 * MiB, hasIothread: true }, /disk 'vda'/],
    [
      'whose SCSI controller has one',
      { key: 'on-scsi', target: 'sda', sizeBytes: 64 * MiB, hasIothread: true },
      /disk 'on-scsi' \(sda\)/,
    ],
  ])('%s is refused by the name of the disk, and goes on running', async (_which, disk, named) => {
    domain = await startBiosDomain([disk, plain]);
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      const { type, message } = await failureOf();
      expect([type, message]).toEqual(['GuestAtRisk', expect.stringMatching(named)]);
      expect(message).toMatch(/iothread, and QEMU \d+\.\d+\.\d+ .*allowIothreads/);
      expect(message).not.toContain("'plain'");
      expect([await stateOf(), await checkpointsOf(domain)]).toEqual(['running', []]);
    }
    const result = await world.backUp({ vm: domain.name, disks: ['plain'] });
    expect([plansOf(result), result.warnings]).toEqual([{ plain: 'full: first_backup' }, [expect.anything()]]);
    expect(await stateOf()).toBe('running');
  });

  test('is read when its owner takes the risk, and the job says which risk that was', async () => {
    domain = await startBiosDomain([{ key: 'vda', target: 'vda', sizeBytes: 8 * MiB, hasIothread: true }]);
    const input = { vm: domain.name, quiesce: 'off', allowIothreads: true } as const;
    const message = await world.backUp(input).then(
      () => '', // a QEMU that was mended under an old version number
      (error: unknown) => (error as { cause: Failure }).cause.message,
    );
    const { rows } = await world.database.pool.query<{ warnings: string[] }>(
      `select warnings from backup_jobs where workflow_id = 'backup-vm/' || $1`,
      [domain.name],
    );
    const said = [message, ...rows.flatMap(({ warnings }) => warnings)].join('\n');
    expect(said).toMatch(/disk 'vda' has an iothread.*allowIothreads/);
  });
});
