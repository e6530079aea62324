import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { diskFilePath, manifestPath } from '../../../src/domain/names.js';
import type { Manifest, ManifestDisk } from '../../../src/repository/manifest.js';
import { readPoints } from '../../../src/repository/read-points.js';

const id = (digit: string) => `${digit.repeat(8)}-1111-4111-8111-111111111111`;
const repositoryId = id('a');
const checksum = `sha256:${'0'.repeat(64)}`;

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'backupvm-read-points-'));
});
afterEach(() => rm(root, { recursive: true }));

/** A chain of three points, each a file of four bytes, `day` apart. */
function createPoint(day: number): Manifest {
  const time = (on: number) => new Date(Date.UTC(2026, 10, on, 2));
  const disk: ManifestDisk = {
    ...{ id: id(String(day)), key: 'root', target: 'vda', type: 'full', reason: 'first_backup', parent: null },
    identity: 'file file=/images/web01.img',
    path: diskFilePath('web01', 'root', time(day)),
    ...{ sizeBytes: 1024, wasEncrypted: false, fileBytes: 4, checksum, hashesChecksum: checksum, changeId: null },
  };
  const parent = { id: id(String(day - 1)), path: diskFilePath('web01', 'root', time(day - 1)) };
  return {
    ...{ format: 1, jobId: id(`${day}`).replace('-1111-', '-2222-'), contextId: id('c'), repositoryId },
    hypervisor: { name: 'local', kind: 'qmp', uri: 'qmp:///run/vms', host: 'kvm1' },
    vm: { id: 'qmp:web01', name: 'web01' },
    ...{ pointTime: time(day).toISOString(), consistency: 'crash', vmConfig: null },
    disks: [day === 1 ? disk : { ...disk, type: 'incremental', reason: 'parent_good', parent }],
  };
}

async function write(path: string, content: string): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeFile(join(root, path), content);
}

const pathOf = ({ pointTime }: Manifest) => manifestPath('web01', new Date(pointTime));

type Change = (manifest: Manifest, disk: ManifestDisk) => unknown;

/** Three points, the second of them changed. */
async function writeChain(change: Change = () => undefined): Promise<void> {
  for (const day of [1, 2, 3]) {
    const manifest = createPoint(day);
    const path = pathOf(manifest);
    await write(manifest.disks[0]?.path ?? '', 'disk');
    if (day === 2) change(manifest, manifest.disks[0] as ManifestDisk);
    await write(path, JSON.stringify(manifest));
  }
}

const read = async () => {
  const { points, problems } = await readPoints(root, repositoryId, new AbortController().signal);
  return { found: points.map(({ path }) => path), problems };
};
const [first, second, third] = [1, 2, 3].map((day) => pathOf(createPoint(day))) as [string, string, string];
const orphaned = { path: third, problem: expect.stringContaining('found no good point with it') as string };

test('a repository as we leave it: every point, the oldest first', async () => {
  await writeChain();
  await write('web01/notes.json', '{}');
  await write('web01/.backup-web01-20261101-020000.json.draft', '{');
  expect(await read()).toEqual({ found: [first, second, third], problems: [] });
});

test('an empty repository has no points', async () => {
  expect(await read()).toEqual({ found: [], problems: [] });
});

describe('a manifest that is not believed, and with it the point that needs it', () => {
  test.each<[what: string, change: Change, problem: string]>([
    ['leads out by ..', (_, disk) => (disk.path = '../web01/x.qcow2'), `expected the file web01/root/backup-`],
    ['leads out by an absolute path', (_, disk) => (disk.path = '/etc/shadow'), `found '/etc/shadow'`],
    ['names the file of another point', (_, disk) => (disk.path = disk.parent?.path ?? ''), 'expected the file'],
    ['names another disk', (_, disk) => (disk.key = 'data'), 'expected the file web01/data/'],
    ['tells another size', (_, disk) => (disk.fileBytes = 5), 'with 5 bytes, found 4'],
    [
      'has a parent that is not there',
      (_, { parent }) => Object.assign(parent ?? {}, { id: id('9') }),
      'found no good point with it',
    ],
    [
      'has a parent by another path',
      (_, { parent }) => Object.assign(parent ?? {}, { path: 'web01/root/x.qcow2' }),
      'expected as parent an older file',
    ],
    ['is its own parent', (_, disk) => (disk.parent = { id: disk.id, path: disk.path }), 'found no good point with it'],
    ['is an incremental without parent', (_, disk) => (disk.parent = null), 'found incremental with none'],
    ['is a full with a parent', (_, disk) => (disk.type = 'full'), 'found full with web01/root/'],
    ['belongs to another repository', (manifest) => (manifest.repositoryId = id('b')), `found one of ${id('b')}`],
    [
      'tells another time',
      (manifest) => (manifest.pointTime = '2026-11-09T02:00:00.000Z'),
      'expected the manifest of 2026-11-09',
    ],
    ['belongs to another VM', (manifest) => (manifest.vm.id = 'qmp:other'), 'found VM qmp:other'],
    ['belongs to another context', (manifest) => (manifest.contextId = id('d')), 'expected as parent an older file'],
    ['has a disk twice', (manifest, disk) => manifest.disks.push(disk), 'expected each disk once'],
    ['has no disk', (manifest) => (manifest.disks = []), 'disks: '],
    ['has an unknown field', (manifest) => Object.assign(manifest, { extra: 1 }), 'not a manifest of format 1'],
    ['is of a later format', (manifest) => Object.assign(manifest, { format: 2 }), 'not a manifest of format 1'],
    ['has a size that is no number', (_, disk) => Object.assign(disk, { sizeBytes: '1024' }), 'disks.0.sizeBytes'],
    ['has a size that is negative', (_, disk) => (disk.sizeBytes = -1), 'disks.0.sizeBytes'],
    ['has a checksum that is none', (_, disk) => (disk.checksum = 'md5:1'), 'disks.0.checksum'],
    ['has an id that is none', (manifest) => (manifest.jobId = "'; drop table"), 'jobId'],
  ])('%s', async (_what, change, problem) => {
    await writeChain(change);
    const expected = { path: second, problem: expect.stringContaining(problem) as string };
    expect(await read()).toEqual({ found: [first], problems: [expected, orphaned] });
  });

  test('is not JSON', async () => {
    await writeChain();
    await write(second, '{"format": 1,');
    expect((await read()).problems).toEqual([
      { path: second, problem: expect.stringMatching(/^cannot be read: /) as string },
      orphaned,
    ]);
  });

  test('names a file that is missing', async () => {
    await writeChain();
    await rm(join(root, createPoint(2).disks[0]?.path ?? ''));
    expect((await read()).problems).toEqual([
      { path: second, problem: expect.stringContaining('found none') as string },
      orphaned,
    ]);
  });

  test('names a file that is a link', async () => {
    await writeChain();
    const file = join(root, createPoint(2).disks[0]?.path ?? '');
    await rm(file);
    await symlink('/etc/hostname', file);
    expect((await read()).problems).toEqual([
      { path: second, problem: expect.stringContaining('no plain file') as string },
      orphaned,
    ]);
  });
});

test('two manifests of one point: neither is believed', async () => {
  await writeChain();
  const twin = createPoint(4);
  await write(twin.disks[0]?.path ?? '', 'disk');
  await write(pathOf(twin), JSON.stringify({ ...twin, jobId: createPoint(3).jobId }));
  const { found, problems } = await read();
  expect(found).toEqual([first, second]);
  expect(problems.map(({ path }) => path)).toEqual([third, pathOf(twin)]);
});

test('a copy of a VM folder is none of its points', async () => {
  await writeChain();
  await rename(join(root, 'web01'), join(root, 'moved'));
  await writeChain();
  const { found, problems } = await read();
  expect(found).toEqual([first, second, third]);
  expect(problems).toHaveLength(3);
});
