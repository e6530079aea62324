import { randomUUID } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readPoints } from '../../src/repository/read-points.js';
import { firstDifference, restore } from '../support/content.js';
import { createTestImage } from '../support/create-image.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { refusalOf, restoreVM, targetDirectory } from '../support/restores.js';
import { createWorld, type World } from '../support/world.js';
import { defineBiosDomain, virsh, type BiosDomain } from './bios-domain.js';

const MiB = 1024 * 1024;
const key = 'vault-serial';
const secretId = randomUUID();
const plaintext = Buffer.alloc(4096, 0x53);
let world: World;
let vm: BiosDomain;

/** A QCOW2 file with encrypted clusters, and the passphrase with libvirt, as virt-manager would set it up. */
beforeAll(async () => {
  world = await createWorld('encrypted-disk', { hypervisor: 'libvirt' });
  vm = await defineBiosDomain([{ key, target: 'vda', sizeBytes: 4 * MiB }]);
  const [secret, passphrase] = [join(vm.directory, 'secret.xml'), join(vm.directory, 'passphrase')];
  const usage = `<usage type='volume'><volume>${secretId}</volume></usage>`;
  await writeFile(secret, `<secret ephemeral='no' private='yes'><uuid>${secretId}</uuid>${usage}</secret>`);
  await writeFile(passphrase, 'letmein');
  await virsh('secret-define', secret);
  await virsh('secret-set-value', secretId, '--file', passphrase, '--plain');
  const encryption = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
  const args = ['-f', 'qcow2', '--object', 'secret,id=s,data=letmein', '-o', encryption];
  await createTestImage([...args, vm.imageOf(key), '4M']);
  const file = join(vm.directory, 'domain.xml');
  const element = `<encryption format='luks'><secret type='passphrase' uuid='${secretId}'/></encryption>`;
  const xml = await readFile(file, 'utf8');
  await writeFile(file, xml.replace(/<source file='([^']*)'\/>/, `<source file='$1'>${element}</source>`));
  await virsh('define', file);
  await virsh('start', vm.vmId);
  await vm.guestIO(key, 'write -P 0x53 0 1M');
});
afterAll(async () => {
  await vm?.dispose();
  await virsh('secret-undefine', secretId).catch(() => '');
  await world?.close();
});

test('an encrypted disk is refused before anything is opened, and the error names it and both ways on', async () => {
  const refusal = await world.backUp({ vm: vm.name }).then(
    () => expect.fail('expected a refusal'),
    (error: unknown) => (error as { cause: { type: string; message: string } }).cause,
  );
  expect(refusal.type).toBe('DiskEncrypted');
  for (const word of [key, 'allowPlaintext', 'leave it out']) expect(refusal.message).toContain(word);
  expect((await virsh('checkpoint-list', vm.vmId, '--name')).trim()).toBe('');
  await expectNothingLeftBehind(world);
});

test('backed up in clear by a word, it is restored to a new VM with a warning, and never in place', async () => {
  const { jobId, disks } = await world.backUp({ vm: vm.name, allowPlaintext: true });
  const held = join(world.directory, 'held');
  await restore(join(world.repository.path, disks[0]?.path ?? ''), held);
  expect((await readFile(held)).subarray(0, 4096)).toEqual(plaintext);
  expect((await readFile(vm.imageOf(key))).includes(plaintext)).toBe(false);
  const { points } = await readPoints(world.repository.path, world.repository.id, AbortSignal.timeout(60_000));
  expect(points[0]?.manifest.disks).toMatchObject([{ key, wasEncrypted: true }]);

  await virsh('destroy', vm.vmId);
  const before = (await stat(vm.imageOf(key))).ino;
  const refusal = await refusalOf(world, { point: jobId, target: { kind: 'in-place' } });
  expect(refusal).toMatchObject({ type: 'TargetUnusable', message: expect.stringContaining('encrypted') as string });
  expect((await stat(vm.imageOf(key))).ino).toBe(before);
  await virsh('start', vm.vmId); // as it was

  const name = `${vm.name} copy`;
  const directory = await targetDirectory(world, 'copy');
  try {
    const restored = await restoreVM(world, { point: jobId, target: { kind: 'vm', name, directory, start: true } });
    expect(restored.warnings).toEqual([expect.stringContaining(`'${key}' was encrypted`)]);
    await virsh('destroy', name);
    await restore(restored.disks[0]?.path ?? '', join(world.directory, 'copy.raw'));
    expect(await firstDifference(join(world.directory, 'copy.raw'), held)).toBeUndefined();
  } finally {
    await virsh('undefine', name).catch(() => '');
  }
});
