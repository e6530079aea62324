import { expect, test } from 'vitest';
import { parseServerArguments } from '../../../src/qemu/running-servers.js';

const tcp = (port: number) => ({ port, socket: null });
const unix = (socket: string) => ({ port: null, socket });

test.each([
  ['qemu-nbd disk.raw', { ...tcp(10_809), exportName: '', file: 'disk.raw' }],
  ['/usr/bin/qemu-nbd -t -p 10900 -x one disk.raw', { ...tcp(10_900), exportName: 'one', file: 'disk.raw' }],
  ['qemu-nbd -p10900 -xone disk.raw', { ...tcp(10_900), exportName: 'one', file: 'disk.raw' }],
  ['qemu-nbd --port 10900 --export-name one disk.raw', { ...tcp(10_900), exportName: 'one', file: 'disk.raw' }],
  ['qemu-nbd --port=1 --port=2 --export-name=backupvm/x/y a', { ...tcp(2), exportName: 'backupvm/x/y', file: 'a' }],
  ['qemu-nbd --discard=unmap --detect-zeroes=unmap a', { ...tcp(10_809), exportName: '', file: 'a' }],
  ['qemu-nbd --socket=/run/x.sock a', { ...unix('/run/x.sock'), exportName: '', file: 'a' }],
  ['qemu-nbd -k /run/x.sock -x one a', { ...unix('/run/x.sock'), exportName: 'one', file: 'a' }],
  ['qemu-nbd --connect=/dev/nbd0 a', { ...unix('/dev/nbd0'), exportName: '', file: 'a' }],
  ['qemu-nbd a --object=secret,id=s,data=hidden', { ...tcp(10_809), exportName: '', file: '' }],
  ['qemu-nbd --description=/r/a.qcow2 json:{}', { ...tcp(10_809), exportName: '', file: '/r/a.qcow2' }],
  ['qemu-nbd json:{"password":"hidden"}', { ...tcp(10_809), exportName: '', file: '' }],
  ['qemu-nbd --list -p 10900', undefined],
  ['qemu-nbd -d /dev/nbd0', undefined],
  ['qemu-nbd --version', undefined],
  ['grep qemu-nbd', undefined],
  ['', undefined],
])('%s', (commandLine, expected) => {
  expect(parseServerArguments(commandLine.split(' '))).toEqual(expected);
});
