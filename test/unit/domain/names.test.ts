import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  attemptFilePath,
  diskFilePath,
  exportName,
  manifestPath,
  pathComponent,
  timestamp,
} from '../../../src/domain/names.js';

const jobId = '3f0c9a52-6d1e-4b7a-9f0e-2b6f1d3c4a5b';
const pointTime = new Date('2026-11-23T01:45:00.999+02:00');

const names = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 80 }),
  fc.string({ unit: 'grapheme', minLength: 40, maxLength: 200 }),
  fc.string({ unit: fc.constantFrom('.', '/', '%', ':', ' ', '~', '2', 'E', "'", 'ß'), maxLength: 40 }),
);

describe('pathComponent', () => {
  test.each([
    ['web01', 'web01'],
    ['DB_01-sys.qcow2', 'DB_01-sys.qcow2'],
    ['', '%'],
    ['.', '%2E'],
    ['..', '%2E.'],
    ['.hidden', '%2Ehidden'],
    ['a/b', 'a%2Fb'],
    ['../../etc', '%2E.%2F..%2Fetc'],
    ['50%', '50%25'],
    ['%2F', '%252F'],
    ['nbd:host', 'nbd%3Ahost'],
    ['two words', 'two%20words'],
    [`it's "it"`, 'it%27s%20%22it%22'],
    ['a\\b\n', 'a%5Cb%0A'],
    ['a\0b', 'a%00b'],
    ['web~1', 'web%7E1'],
    ['grün', 'gr%C3%BCn'],
    ['日本', '%E6%97%A5%E6%9C%AC'],
  ])('%j becomes %s', (name, component) => {
    expect(pathComponent(name)).toBe(component);
  });

  test('keeps 60 characters, and cuts what is longer down to a beginning and a hash', () => {
    expect(pathComponent('x'.repeat(60))).toBe('x'.repeat(60));
    expect(pathComponent('x'.repeat(61))).toMatch(/^x{40}%~[0-9a-f]{16}$/);
    expect(pathComponent('x'.repeat(200))).toMatch(/^x{40}%~[0-9a-f]{16}$/);
  });

  test('gives the same component for the same name in every release', () => {
    expect(pathComponent('x'.repeat(61))).toBe(`${'x'.repeat(40)}%~1ae3f15d5cfaefb7`);
  });

  test('is one harmless path component, whatever the name', () => {
    fc.assert(
      fc.property(names, (name) => {
        const component = pathComponent(name);
        expect(component).toMatch(/^[A-Za-z0-9_%-][A-Za-z0-9_.%~-]{0,59}$/);
        expect(component.startsWith('.')).toBe(false);
      }),
      { seed: 3 },
    );
  });

  test('can be read back where it is not cut, so that no two names share it', () => {
    fc.assert(
      fc.property(names, (name) => {
        const component = pathComponent(name);
        fc.pre(component !== '%' && !component.includes('%~'));
        expect(decodeURIComponent(component)).toBe(name);
      }),
      { seed: 3 },
    );
  });

  test('tells names apart that differ only after the cut, and a cut name from what it looks like', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 61, maxLength: 150 }), names, names, (long, a, b) => {
        fc.pre(a !== b);
        expect(pathComponent(long + a)).not.toBe(pathComponent(long + b));
        expect(pathComponent(pathComponent(long))).not.toBe(pathComponent(long));
      }),
      { seed: 3 },
    );
  });
});

describe('paths in a repository', () => {
  test('a disk’s file lies in the folder of its disk, and says whose it is', () => {
    expect(diskFilePath('web01', 'vda', pointTime)).toBe('web01/vda/backup-web01-vda-20261122-234500.qcow2');
    expect(diskFilePath('web%2F01', 'a b', pointTime)).toBe(
      'web%2F01/a%20b/backup-web%2F01-a%20b-20261122-234500.qcow2',
    );
  });

  test('a manifest lies beside the folders of the disks', () => {
    expect(manifestPath('web01', pointTime)).toBe('web01/backup-web01-20261122-234500.json');
  });

  test('an attempt’s file lies beside the final one, and is another for each job and attempt', () => {
    const final = diskFilePath('web01', 'vda', pointTime);
    expect(attemptFilePath(final, jobId, '2')).toBe(
      `web01/vda/.${jobId}.2.backup-web01-vda-20261122-234500.qcow2.partial`,
    );
    expect(attemptFilePath(final, jobId, '3')).not.toBe(attemptFilePath(final, jobId, '2'));
    expect(attemptFilePath('disk.qcow2', jobId, '1')).toBe(`.${jobId}.1.disk.qcow2.partial`);
  });

  test('no file’s name is longer than a file system takes', () => {
    fc.assert(
      fc.property(names, names, (vm, disk) => {
        const directory = `${pathComponent(vm)}~0123abcd`; // of the second VM with this name
        const final = diskFilePath(directory, disk, pointTime);
        const paths = [final, attemptFilePath(final, jobId, '0123abcd'), manifestPath(directory, pointTime)];
        for (const component of paths.flatMap((path) => path.split('/'))) {
          expect(Buffer.byteLength(component)).toBeLessThan(255);
        }
      }),
      { seed: 3 },
    );
  });

  test('times are in UTC, and sort as their names do', () => {
    expect(timestamp(new Date('2026-01-02T03:04:05.678Z'))).toBe('20260102-030405');
    expect(timestamp(pointTime)).toBe('20261122-234500');
  });

  test('an export carries its job and its disk', () => {
    expect(exportName(jobId, 'a/b')).toBe(`backupvm/${jobId}/a%2Fb`);
  });
});
