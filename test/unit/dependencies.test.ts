import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

test('docs/dependencies.md has one line for each dependency, and exact versions are asked for', () => {
  const manifest = JSON.parse(read('package.json')) as Record<string, Record<string, string>>;
  const versions = { ...manifest['dependencies'], ...manifest['devDependencies'] };
  const documented = [...read('docs/dependencies.md').matchAll(/^\| `(.+?)`/gm)].map(([, name]) => name);
  expect(documented.sort()).toEqual(Object.keys(versions).sort());
  expect(Object.values(versions).filter((version) => !/^\d/.test(version))).toEqual([]);
});
