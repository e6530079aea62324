import { expect, test } from 'vitest';
import { targetsWithIothread } from '../../../../src/sources/libvirt/iothreads.js';

const domain = (devices: string) =>
  `<domain><name>web01</name><devices><emulator>/usr/bin/qemu</emulator>${devices}</devices></domain>`;
const disk = (target: string, driver = '', rest = '') =>
  `<disk type='file' device='disk'><driver name='qemu' type='qcow2'${driver}</driver><target dev='${target}' bus='${target.startsWith('sd') ? 'scsi' : 'virtio'}'/>${rest}</disk>`;
const scsi = (index: string, driver: string) =>
  `<controller type='scsi' index='${index}' model='virtio-scsi'>${driver}</controller>`;
const at = (controller: string) => `<address type='drive' controller='${controller}' bus='0' target='0' unit='0'/>`;
const iothread = "<driver iothread='2'/>";

test.each<[string, string, string[]]>([
  ['no disk', '', []],
  ['a disk without one', disk('vda', '>'), []],
  ['a disk with one', disk('vda', " iothread='1'>") + disk('vdb', '>'), ['vda']],
  ['a disk with several', disk('vda', "><iothreads><iothread id='1'/><iothread id='2'/></iothreads>"), ['vda']],
  ['a SCSI disk whose controller has one', scsi('0', iothread) + disk('sda', '>', at('0')), ['sda']],
  ['a SCSI disk of another controller', scsi('0', iothread) + scsi('1', '') + disk('sda', '>', at('1')), []],
  ['a SCSI disk without an address', scsi('0', iothread) + disk('sda', '>'), ['sda']],
  ['a virtio disk next to such a controller', scsi('0', iothread) + disk('vda', '>', at('0')), []],
  ['a controller with several', scsi('0', '<driver><iothreads/></driver>') + disk('sda', '>', at('0')), ['sda']],
  ['a controller without one', scsi('0', "<driver queues='4'/>") + disk('sda', '>', at('0')), []],
])('%s', (_name, devices, expected) => {
  expect([...targetsWithIothread(domain(devices))]).toEqual(expected);
});
