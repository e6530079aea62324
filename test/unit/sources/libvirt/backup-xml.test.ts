import { XMLParser } from 'fast-xml-parser';
import { expect, test } from 'vitest';
import {
  backupXml,
  checkpointXml,
  parseBackupSocket,
  parseCheckpoint,
} from '../../../../src/sources/libvirt/backup-xml.js';

const read = (xml: string): unknown => new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '@' }).parse(xml);

test('a backup names the mode and the scratch file of each disk, and leaves the others out', () => {
  const plans = [
    { target: 'vda', scratchFile: '/s/vda', incremental: 'backupvm-1' },
    { target: 'vdb', scratchFile: '/s/vdb', incremental: null },
  ];
  expect(read(backupXml('/s/nbd.sock', plans, ['hda']))).toEqual({
    domainbackup: {
      '@mode': 'pull',
      server: { '@transport': 'unix', '@socket': '/s/nbd.sock' },
      disks: {
        disk: [
          {
            '@name': 'vda',
            '@backup': 'yes',
            '@type': 'file',
            '@backupmode': 'incremental',
            '@incremental': 'backupvm-1',
            scratch: { '@file': '/s/vda' },
          },
          {
            '@name': 'vdb',
            '@backup': 'yes',
            '@type': 'file',
            '@backupmode': 'full',
            scratch: { '@file': '/s/vdb' },
          },
          { '@name': 'hda', '@backup': 'no' },
        ],
      },
    },
  });
});

test.each(['/plain/nbd.sock', `/it's "a" <b> & c/nbd.sock`, '/ünïcode/ /nbd.sock'])(
  'the socket %s survives the way to libvirt and back',
  (socket) => {
    expect(parseBackupSocket(backupXml(socket, [], ['vda']))).toBe(socket);
  },
);

test.each([
  ["<domainbackup mode='push'><disks><disk name='vda' backup='yes'/></disks></domainbackup>"],
  ["<domainbackup mode='pull'><server transport='tcp' name='localhost' port='10809'/></domainbackup>"],
])('a job that has no socket has none: %s', (xml) => {
  expect(parseBackupSocket(xml)).toBeNull();
});

test('a checkpoint covers the disks that track changes, and says so for each other one', () => {
  expect(read(checkpointXml('backupvm-1', ['vda'], ['vdc']))).toEqual({
    domaincheckpoint: {
      name: 'backupvm-1',
      disks: {
        disk: [
          { '@name': 'vda', '@checkpoint': 'bitmap' },
          { '@name': 'vdc', '@checkpoint': 'no' },
        ],
      },
    },
  });
});

test('a checkpoint read back tells which bitmaps can be used: those that have a size, be it 0', () => {
  const xml = `<domaincheckpoint><name>cp1</name><creationTime>1</creationTime><disks>
    <disk name='vda' checkpoint='bitmap' bitmap='cp1' size='0'/>
    <disk name='vdb' checkpoint='bitmap' bitmap='cp1'/>
    <disk name='vdc' checkpoint='no'/>
  </disks></domaincheckpoint>`;
  expect(parseCheckpoint(xml)).toEqual([
    { target: 'vda', bitmap: 'cp1', usable: true },
    { target: 'vdb', bitmap: 'cp1', usable: false },
  ]);
});

test('one disk is a list of one', () => {
  const xml = `<domaincheckpoint><disks><disk name='vda' checkpoint='bitmap' bitmap='b' size='1'/></disks></domaincheckpoint>`;
  expect(parseCheckpoint(xml)).toHaveLength(1);
});
