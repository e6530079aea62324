import { describe, expect, test } from 'vitest';
import { readDiskDefinitions } from '../../../../src/sources/libvirt/disk-definitions.js';

const domain = (...disks: string[]) =>
  `<domain><name>web &amp; 01</name><devices><emulator>/usr/bin/qemu</emulator>${disks.join('')}</devices></domain>`;
const disk = (inside = '', source = `<source file='/images/a.img' index='1'/>`) =>
  `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>${source}${inside}<target dev='vda' bus='virtio'/></disk>`;
const backing = (source: string) => `<backingStore type='file'><format type='qcow2'/>${source}</backingStore>`;

describe('the image of a disk may be replaced', () => {
  test.each([
    ['where the definition says nothing more', disk()],
    ['where the chain ends with it, said outright', disk('<backingStore/>')],
    ['where its backing store has no source', disk(`<backingStore type='file'/>`)],
    ['next to a disk that may not', disk()],
  ])('%s', (_what, element) => {
    expect(readDiskDefinitions(domain(element, disk('<shareable/>')))[0]).toMatchObject({
      target: 'vda',
      obstacle: null,
      isEncrypted: false,
    });
  });
});

describe('the image of a disk may not be replaced', () => {
  const encryption = `<encryption format='luks'><secret type='passphrase' uuid='1'/></encryption>`;
  test.each([
    ['with a backing file', disk(backing(`<source file='/images/base.img'/><backingStore/>`)), '/images/base.img'],
    ['with a backing file on the network', disk(backing(`<source protocol='nbd' name='x'/>`)), 'blockcommit'],
    ['that is encrypted, by its source', disk('', `<source file='/images/a.img'>${encryption}</source>`), 'encrypted'],
    ['that is encrypted, by the older place', disk(encryption), 'encrypted'],
    [
      'that a block job copies',
      disk(`<mirror type='file' job='copy'><source file='/images/b.img'/></mirror>`),
      'blockjob',
    ],
    [
      'with an external data file',
      disk(
        '',
        `<source file='/images/a.img'><dataStore type='file'><source file='/images/d.raw'/></dataStore></source>`,
      ),
      'external data file',
    ],
    [
      'that is a part of a file',
      disk('', `<source file='/images/a.img'><slices><slice type='storage' offset='0' size='512'/></slices></source>`),
      'part of its file',
    ],
    ['that is transient', disk('<transient/>'), 'transient'],
    ['that is shareable', disk('<shareable/>'), 'shareable'],
  ])('%s', (_what, element, words) => {
    const [found] = readDiskDefinitions(domain(element));
    expect(found?.obstacle).toContain(words);
    expect(found?.obstacle).toMatch(/; .*restore to/);
  });

  test('and the next step names the VM and the disk', () => {
    const [found] = readDiskDefinitions(domain(disk(backing(`<source file='/images/base.img'/>`))));
    expect(found?.obstacle).toContain(`virsh blockcommit 'web & 01' vda --active --pivot`);
  });
});

test('every file that a disk reads is named, whatever depth it stands at, and volumes apart', () => {
  const deep = backing(`<source file='/images/b.img'/>${backing(`<source file='/images/c.img'/>`)}`);
  const volume = `<disk type='volume' device='cdrom'><source pool='default' volume='iso'/><target dev='sda'/></disk>`;
  const [first, second] = readDiskDefinitions(domain(disk(deep), volume));
  expect(first?.files.sort()).toEqual(['/images/a.img', '/images/b.img', '/images/c.img']);
  expect(first).toMatchObject({ file: '/images/a.img', format: 'qcow2', volumes: [] });
  expect(second).toMatchObject({ file: null, files: [], volumes: [{ pool: 'default', volume: 'iso' }] });
});
