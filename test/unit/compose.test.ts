import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const compose = read('docker-compose.yml');

/** The lines of one service, without comments. */
function service(name: string): string[] {
  const lines = compose.split('\n').filter((line) => !/^\s*#/.test(line));
  const start = lines.indexOf(`  ${name}:`);
  const length = lines.slice(start + 1).findIndex((line) => /^ {0,2}\S/.test(line));
  expect(start, `service ${name}`).toBeGreaterThan(0);
  return lines.slice(start + 1, start + 1 + length);
}

function environment(name: string): string[] {
  const lines = service(name);
  const start = lines.findIndex((line) => line.startsWith('    environment:'));
  const length = lines.slice(start + 1).findIndex((line) => !line.startsWith('      '));
  return lines.slice(start + 1, start + 1 + length).flatMap((line) => /^ {6}([A-Z_]+):/.exec(line)?.[1] ?? []);
}

test('the worker understands every variable that it gets', () => {
  const understood = [...read('src/config/config.ts').matchAll(/env\['([A-Z_]+)'\]/g)].map(([, name]) => name);
  const byLibraries = /^(PG(HOST|PORT|DATABASE|USER|PASSWORD)|TEMPORAL_(ADDRESS|NAMESPACE))$/;
  const given = [...environment('setup'), ...environment('worker')];
  expect(given).toContain('BACKUPVM_HOST');
  expect(given).toContain('PGHOST');
  expect(given.filter((name) => !byLibraries.test(name) && !understood.includes(name))).toEqual([]);
});

test('nothing is reachable from outside the machine', () => {
  const ports = [...compose.matchAll(/^ +ports:\n((?: +- .*\n)+)/gm)].flatMap(([, list = '']) =>
    list.trim().split('\n'),
  );
  expect(ports.length).toBeGreaterThan(0);
  expect(ports.filter((port) => !port.trim().startsWith('- 127.0.0.1:'))).toEqual([]);
});

test('every image is of one version', () => {
  const images = [...compose.matchAll(/^ +image: (.*)$/gm)].map(([, image]) => image);
  expect(images.length).toBeGreaterThan(4);
  expect(images.filter((image) => !/:\d+\.\d+|^backupvm:local$/.test(image ?? ''))).toEqual([]);
});

test('what has to be filled in stands in .env.example, empty', () => {
  const asked = new Set([...compose.matchAll(/\$\{([A-Z_]+)/g)].map(([, name]) => name));
  const offered = [...read('.env.example').matchAll(/^([A-Z_]+)=(.*)$/gm)];
  expect(new Set(offered.map(([, name]) => name))).toEqual(asked);
  expect(offered.filter(([, , value]) => value !== '')).toEqual([]);
  const withDefault = [...compose.matchAll(/\$\{[A-Z_]+:?-/g)];
  expect(withDefault).toEqual([]);
});
