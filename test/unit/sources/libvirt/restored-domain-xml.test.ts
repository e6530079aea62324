import { describe, expect, test } from 'vitest';
import { parseDomain } from '../../../../src/sources/libvirt/domain.js';
import { restoredDomainXml } from '../../../../src/sources/libvirt/restored-domain-xml.js';

const vmId = '11111111-2222-3333-4444-555555555555';
const name = 'copy <1> & "ü"';

/** A domain with these devices, and what a restore of it makes of them. */
function restored(
  devices: string,
  rest = '',
  disks = [{ key: 'SER', file: `/r/it's & x.qcow2`, format: 'qcow2' as const }],
) {
  const vmConfig = `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <name>we&amp;b01</name><uuid>aaaaaaaa-0000-0000-0000-000000000000</uuid>${rest}<devices>${devices}</devices>
    <qemu:commandline><qemu:arg value='-x'/></qemu:commandline></domain>`;
  return restoredDomainXml({ vmId, name, vmConfig, disks });
}
const disk = `<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/><source dev='/dev/vg/web' index='1'/>
  <backingStore/><target dev='vda' bus='virtio'/><serial>SER</serial><boot order='1'/><alias name='virtio-disk0'/></disk>`;

test('the VM is another one: its name, its id and what carries them', () => {
  const xml = restored(
    disk,
    `<genid>b1</genid><sysinfo type='smbios'><system><entry name='uuid'>aaaaaaaa</entry><entry name='serial'>s1</entry></system></sysinfo>`,
  );
  expect(parseDomain(xml).name).toBe(name);
  expect(xml).toContain(`<uuid>${vmId}</uuid>`);
  expect(xml).toContain(`<entry name="uuid">${vmId}</entry>`);
  expect(xml).toContain('<entry name="serial">s1</entry>');
  expect(xml).toContain('<genid/>');
  expect(xml).not.toContain('aaaaaaaa');
  expect(xml).not.toContain(' id="3"');
  expect(xml).toContain('<qemu:arg value="-x"/>');
});

test('a restored disk is the new file, in its old place with its old serial', () => {
  const xml = restored(disk);
  expect(parseDomain(xml).disks).toMatchObject([
    { key: 'SER', target: 'vda', file: `/r/it's & x.qcow2`, format: 'qcow2', tracksChanges: true },
  ]);
  expect(xml).toContain('<driver name="qemu" type="qcow2" cache="none" discard="unmap"/>');
  expect(xml).toContain('<boot order="1"/>');
  for (const gone of ['/dev/vg/web', 'backingStore', 'alias']) expect(xml).not.toContain(gone);
});

describe('what only one VM may have is not in the new one:', () => {
  test.each<[what: string, devices: string, kept: string[], gone: string[]]>([
    [
      'a medium, but the drive stays',
      `<disk type='network' device='cdrom'><source protocol='http' name='a.iso'/><target dev='hda' bus='ide'/><readonly/></disk>`,
      ['<disk type="file" device="cdrom">', '<target dev="hda" bus="ide"/>'],
      ['a.iso'],
    ],
    [
      'a disk that is not restored',
      `<disk type='file' device='disk'><source file='/old/data'/><target dev='vdb'/></disk>`,
      [],
      ['/old/data', 'vdb'],
    ],
    [
      'a MAC address, and the port that the network gave',
      `<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default' portid='p1' bridge='virbr0'/><target dev='vnet3'/><model type='virtio'/></interface>`,
      ['<source network="default"/>', '<model type="virtio"/>'],
      ['52:54:00', 'p1', 'virbr0', 'vnet3'],
    ],
    [
      'a bridge is no such port',
      `<interface type='bridge'><source bridge='br0'/><target dev='web-lan'/></interface>`,
      ['<source bridge="br0"/>', '<target dev="web-lan"/>'],
      [],
    ],
    [
      "an agent's socket",
      `<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/domain-1-web/a'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`,
      ['<channel type="unix">', 'org.qemu.guest_agent.0'],
      ['/var/lib'],
    ],
    [
      'a log with its name, which becomes one with the new name',
      `<serial type='file'><source path='/we&amp;b01/we&amp;b01.log' append='on'/><target port='0'/></serial>`,
      ['<source path="/we&amp;b01/copy &lt;1&gt; &amp; &quot;ü&quot;.log" append="on"/>', '<target port="0"/>'],
      [],
    ],
    [
      'a log with any other name',
      `<serial type='file'><source path='/var/log/guests'/><log file='/x'/><target port='0'/></serial>`,
      ['<serial type="pty">'],
      ['/var/log/guests', '/x'],
    ],
    [
      'a terminal',
      `<serial type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target port='0'/></serial><console type='pty' tty='/dev/pts/3'><target type='serial'/></console>`,
      ['<serial type="pty">'],
      ['/dev/pts', 'console'],
    ],
    [
      'a port that was chosen for it',
      `<graphics type='vnc' port='5901' websocket='5702' autoport='yes'><listen type='socket' socket='/run/vnc'/></graphics>`,
      ['<graphics type="vnc" autoport="yes">', '<listen type="socket"/>'],
      ['5901', '5702', '/run/vnc'],
    ],
    ['a port that somebody chose stays', `<graphics type='vnc' port='5999' autoport='no'/>`, ['port="5999"'], []],
  ])('%s', (_what, devices, kept, gone) => {
    const xml = restored(devices);
    for (const text of kept) expect(xml).toContain(text);
    for (const text of gone) expect(xml).not.toContain(text);
  });

  test('firmware variables, and the labels of the process that ran', () => {
    const xml = restored(
      disk,
      `<os firmware='efi'><nvram template='/t.fd'>/var/we_VARS.fd</nvram></os><seclabel type='dynamic' model='dac'><label>+1:+1</label></seclabel><seclabel type='none' model='selinux'/>`,
    );
    expect(xml).toContain('<nvram template="/t.fd"/>');
    expect(xml).toContain('<seclabel type="none" model="selinux"/>');
    for (const text of ['we_VARS', 'dynamic', '+1:+1']) expect(xml).not.toContain(text);
  });
});
