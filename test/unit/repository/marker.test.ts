import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  createMarker,
  markerName,
  probeRepository,
  readMarker,
  requireRepository,
} from '../../../src/repository/marker.js';

let directory: string;
let path: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-marker-'));
  path = join(directory, 'repository');
  await mkdir(path);
});

afterEach(() => rm(directory, { recursive: true, force: true }));

const otherId = '3f0c9a52-6d1e-4b7a-9f0e-2b6f1d3c4a5b';

function unusable(problem: string) {
  const message = expect.stringContaining(`The repository at ${path} cannot be used: ${problem}`) as string;
  return { code: 'RepositoryUnusable', message };
}

describe('createMarker', () => {
  test('makes a marker that can be read back, and adopted by its id', async () => {
    const { id } = await createMarker(path, 'main');
    const marker = await readMarker(path);
    expect(marker).toMatchObject({ format: 1, id, name: 'main' });
    expect(new Date(marker?.createdAt ?? '').getTime()).toBeGreaterThan(0);
    await requireRepository(path, id);
    expect(await readdir(path)).toEqual([markerName]);
  });

  test('refuses a directory that has one, and leaves it as it is', async () => {
    await createMarker(path, 'main');
    const before = await readFile(join(path, markerName), 'utf8');
    await expect(createMarker(path, 'other')).rejects.toMatchObject({ code: 'AlreadyExists' });
    expect(await readFile(join(path, markerName), 'utf8')).toBe(before);
  });

  test('lets one of two that come at once win', async () => {
    const outcomes = await Promise.allSettled([createMarker(path, 'a'), createMarker(path, 'b')]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  });

  test('never makes the directory', async () => {
    path = join(directory, 'unmounted');
    await expect(createMarker(path, 'main')).rejects.toMatchObject(unusable('it does not exist'));
    expect(await readdir(directory)).toEqual(['repository']);
  });
});

describe('readMarker', () => {
  test('finds none in a directory without', async () => {
    expect(await readMarker(path)).toBeUndefined();
  });

  test.each([
    ['nothing', ''],
    ['half of it', '{"format": 1, "id": "3f0c'],
    ['an id that is none', '{"format":1,"id":"main","name":"main","createdAt":""}'],
    ['a format that is not ours', `{"format":2,"id":"${otherId}","name":"main","createdAt":""}`],
    ['another kind of JSON', '[]'],
  ])('calls a marker that holds %s damaged, and says what belongs there', async (_what, content) => {
    await writeFile(join(path, markerName), content);
    await expect(readMarker(path)).rejects.toMatchObject(
      unusable(`its marker file ${markerName} is damaged; put back {"format":1,"id":`),
    );
  });

  test('says so where the marker cannot be read', async () => {
    await mkdir(join(path, markerName));
    await expect(readMarker(path)).rejects.toMatchObject(unusable('its marker file could not be read'));
  });
});

describe('requireRepository and probeRepository refuse', () => {
  const checks = [
    ['requireRepository', requireRepository],
    ['probeRepository', probeRepository],
  ] as const;

  test.each(checks)('a directory that is not there: %s', async (_name, check) => {
    path = join(directory, 'none');
    await expect(check(path, otherId)).rejects.toMatchObject(
      unusable('it does not exist; make the directory, or mount'),
    );
  });

  test.each(checks)('a file in its place: %s', async (_name, check) => {
    path = join(directory, 'file');
    await writeFile(path, '');
    await expect(check(path, otherId)).rejects.toMatchObject(unusable('it is no directory'));
  });

  test.each(checks)('a directory below a file: %s', async (_name, check) => {
    await writeFile(join(directory, 'file'), '');
    path = join(directory, 'file/repository');
    await expect(check(path, otherId)).rejects.toMatchObject(unusable('Error: ENOTDIR'));
  });

  test.each(checks)('an empty mount point, and write nothing: %s', async (_name, check) => {
    await expect(check(path, otherId)).rejects.toMatchObject(
      unusable(`it has no marker file ${markerName}; is its file system mounted? Nothing was written`),
    );
    expect(await readdir(path)).toEqual([]);
  });

  test.each(checks)('another repository, by both ids: %s', async (_name, check) => {
    const { id } = await createMarker(path, 'theirs');
    await expect(check(path, otherId)).rejects.toMatchObject(
      unusable(`expected repository ${otherId}, found the marker file of ${id} ('theirs')`),
    );
  });
});

test('a probe tells the free space, and leaves nothing', async () => {
  const { id } = await createMarker(path, 'main');
  expect((await probeRepository(path, id)).freeBytes).toBeGreaterThan(0);
  expect(await readdir(path)).toEqual([markerName]);
});
