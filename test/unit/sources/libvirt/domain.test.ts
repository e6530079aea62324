import { describe, expect, test } from 'vitest';
import { parseDomain, stateOf } from '../../../../src/sources/libvirt/domain.js';

const domain = (disks: string, rest = '') =>
  `<domain type='kvm' id='3'><name>web &amp; &lt;01&gt;</name><devices><emulator>/usr/bin/qemu</emulator>${disks}</devices>${rest}</domain>`;

const disk = (target: string, rest = '', type = 'qcow2') =>
  `<disk type='file' device='disk'><driver name='qemu' type='${type}'/><source file='/images/${target}.img' index='1'/><backingStore/><target dev='${target}' bus='virtio'/>${rest}</disk>`;

const keys = (xml: string) => parseDomain(xml).disks.map((found) => found.key);

describe('disk keys', () => {
  test.each([
    ['the serial', disk('vda', '<serial>0042</serial>'), ['0042']],
    ['the serial before the WWN', disk('sda', '<wwn>5000c500</wwn><serial>s1</serial>'), ['s1']],
    ['the WWN, digits as they stand', disk('sda', '<wwn>5000000000000001</wwn>'), ['5000000000000001']],
    ['the target', disk('vda'), ['vda']],
    ['the target where the serial is empty', disk('vda', '<serial></serial>'), ['vda']],
    ['the unescaped serial', disk('vda', '<serial>a &amp; b</serial>'), ['a & b']],
    ['each its own', disk('vda', '<serial>s1</serial>') + disk('vdb'), ['s1', 'vdb']],
    [
      'the targets where two claim one serial',
      disk('vda', '<serial>s</serial>') + disk('vdb', '<serial>s</serial>') + disk('vdc', '<serial>t</serial>'),
      ['vda', 'vdb', 't'],
    ],
    [
      'the targets where a serial is the target of another',
      disk('vda', '<serial>vdb</serial>') + disk('vdb') + disk('vdc', '<serial>vda</serial>'),
      ['vda', 'vdb', 'vdc'],
    ],
  ])('are %s', (_name, disks, expected) => {
    expect(keys(domain(disks))).toEqual(expected);
  });

  test('do not depend on the order in the XML', () => {
    const [a, b] = [disk('vda', '<serial>s1</serial>'), disk('vdb')];
    expect(keys(domain(b + a))).toEqual(keys(domain(a + b)).reverse());
  });
});

describe('what is skipped, and why', () => {
  test.each([
    ['a plain disk is not', disk('vda'), null],
    ['a raw one is not', disk('vda', '', 'raw'), null],
    ['one without a device attribute is not', "<disk type='file'><source file='/a'/><target dev='vda'/></disk>", null],
    [
      'a network disk is not',
      "<disk type='network' device='disk'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>",
      null,
    ],
    [
      'a CD-ROM',
      "<disk type='file' device='cdrom'><source file='/cd.iso'/><target dev='hda'/><readonly/></disk>",
      'CD-ROM',
    ],
    ['an empty CD-ROM', "<disk type='file' device='cdrom'><target dev='hda'/><readonly/></disk>", 'CD-ROM'],
    ['a floppy', "<disk type='file' device='floppy'><source file='/a'/><target dev='fda'/></disk>", 'floppy'],
    ['a LUN', "<disk type='block' device='lun'><source dev='/dev/sdb'/><target dev='sda'/></disk>", 'raw passthrough'],
    ['a read-only disk', disk('vda', '<readonly/>'), 'read-only'],
    ['a disk without a source', "<disk type='file' device='disk'><target dev='sda'/></disk>", 'no medium'],
    [
      'vhost-user',
      "<disk type='vhostuser' device='disk'><source type='unix' path='/s'/><target dev='vda'/></disk>",
      'vhost-user',
    ],
  ])('%s', (_name, xml, skipReason) => {
    expect(parseDomain(domain(xml)).disks).toMatchObject([{ skipReason }]);
  });
});

test.each([
  ['qcow2', true],
  ['raw', false],
  ['vmdk', false],
])('a %s image tracks changes: %s', (type, tracksChanges) => {
  expect(parseDomain(domain(disk('vda', '', type))).disks).toMatchObject([{ tracksChanges, file: '/images/vda.img' }]);
});

test('a read-only QCOW2 disk tracks nothing, since it is skipped', () => {
  expect(parseDomain(domain(disk('vda', '<readonly/>'))).disks).toMatchObject([{ tracksChanges: false }]);
});

test('a domain without disks has none, and its name is unescaped', () => {
  expect(parseDomain(domain(''))).toEqual({ name: 'web & <01>', disks: [], qemuUser: null });
});

test.each([
  [
    "<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel>",
    { uid: 64055, gid: 108 },
  ],
  [
    "<seclabel type='dynamic' model='apparmor'><label>libvirt-1</label></seclabel><seclabel model='dac'><label>+0:+0</label></seclabel>",
    { uid: 0, gid: 0 },
  ],
  ["<seclabel type='none' model='dac'/>", null],
  ["<seclabel model='dac'><label>qemu:qemu</label></seclabel>", null],
  ['', null],
])('QEMU’s user comes from the dac label: %s', (seclabels, qemuUser) => {
  expect(parseDomain(domain('', seclabels)).qemuUser).toEqual(qemuUser);
});

test.each([
  ['running', 'running'],
  ['idle', 'running'],
  ['1', 'running'],
  ['paused', 'paused'],
  ['3', 'paused'],
  ['shut off', 'shut off'],
  ['5', 'shut off'],
  ['pmsuspended', 'other'],
  ['crashed', 'other'],
  ['in shutdown', 'other'],
])('the state %s is %s', (word, state) => {
  expect(stateOf(word)).toBe(state);
});
