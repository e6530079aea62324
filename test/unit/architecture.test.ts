import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { planReasons } from '../../src/domain/plan.js';
import type { Manifest, ManifestDisk } from '../../src/repository/manifest.js';

const read = (path: string) => readFileSync(path, 'utf8');
const documents = ['architecture.md', 'repository-format.md', 'sources.md'].map((name) => join('docs', name));
const steps = [...read('docs/architecture.md').matchAll(/^\| .* \| `(src\/\S+)` +\| `(\w+)` +\|$/gm)];

test('the table of steps is there', () => {
  expect(steps.length).toBeGreaterThan(20);
});

test.each(steps.map(([, file = '', name = '']) => [file, name]))('%s has the function %s', (file, name) => {
  expect(new RegExp(`(function |async )${name}[<(]`).test(read(file))).toBe(true);
});

test.each(documents)('every path and page that %s names is there', (document) => {
  const text = read(document);
  const paths = [...text.matchAll(/`((?:src|test|demo|scripts|deploy|drizzle)\/[\w./-]*)`/g)].map(
    ([, path = '']) => path,
  );
  const pages = [...text.matchAll(/\]\((\w[\w-]*\.md)\)/g)].map(([, page = '']) => join('docs', page));
  expect([...paths, ...pages].filter((path) => !existsSync(path))).toEqual([]);
});

test('the example of a manifest has exactly the fields that we write', () => {
  const example = /```json\n(\{\n {2}"format": 1,\n {2}"jobId"[\s\S]*?\n\})\n```/.exec(
    read('docs/repository-format.md'),
  )?.[1];
  const manifest = JSON.parse(example ?? '{}') as Manifest;
  const fields: Record<keyof Manifest, true> = {
    format: true,
    jobId: true,
    contextId: true,
    repositoryId: true,
    hypervisor: true,
    vm: true,
    pointTime: true,
    consistency: true,
    vmConfig: true,
    disks: true,
  };
  const diskFields: Record<keyof ManifestDisk, true> = {
    id: true,
    key: true,
    target: true,
    identity: true,
    type: true,
    reason: true,
    parent: true,
    path: true,
    sizeBytes: true,
    wasEncrypted: true,
    fileBytes: true,
    checksum: true,
    hashesChecksum: true,
    changeId: true,
  };
  expect(Object.keys(manifest)).toEqual(Object.keys(fields));
  for (const disk of manifest.disks) {
    expect(Object.keys(disk)).toEqual(Object.keys(diskFields));
    expect(planReasons).toHaveProperty(disk.reason);
  }
});
