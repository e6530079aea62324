import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { exitCodes } from '../../../src/cli/failure.js';
import { errorCodes } from '../../../src/domain/errors.js';

const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');

/** The cells of the table rows that begin with `cell`. */
function tableRows(text: string, firstCell: RegExp): string[][] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .map((line) =>
      line
        .slice(1, -1)
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim()),
    )
    .filter(([first]) => firstCell.test(first ?? ''));
}

test('the table of exit codes in docs/cli.md is the one of the code', () => {
  const documented = tableRows(read('docs/cli.md'), /^\d+$/).flatMap(([exitCode, codes = '']) =>
    [...codes.matchAll(/`(\w+)`/g)].map(([, code]) => `${code} ${exitCode}`),
  );
  expect(documented.sort()).toEqual(
    Object.entries(errorCodes)
      .map(([code, { exitCode }]) => `${code} ${exitCode}`)
      .sort(),
  );
});

test('docs/cli.md has a row for every exit code', () => {
  const rows = tableRows(read('docs/cli.md'), /^\d+$/).map(([exitCode]) => Number(exitCode));
  const all = [...Object.values(exitCodes), ...Object.values(errorCodes).map(({ exitCode }) => exitCode)];
  expect(rows).toEqual([...new Set(all)].sort((a, b) => a - b));
});

test('docs/configuration.md has every variable with its default', () => {
  const source = read('src/config/config.ts');
  const inCode = new Map<string, string | undefined>();
  for (const [, name = '', fallback] of source.matchAll(/env\['(\w+)'\](?: \|\| '([^']*)')?/g)) {
    inCode.set(name, inCode.get(name) ?? fallback);
  }
  expect(inCode.size).toBeGreaterThan(8);
  const rows = tableRows(read('docs/configuration.md'), /^`(BACKUPVM|PG|DATABASE)/);
  for (const [name, fallback] of inCode) {
    const row = rows.find(([cell]) => cell === `\`${name}\``);
    expect(row, `a row for ${name}`).toBeDefined();
    if (fallback) expect(row?.[1]).toContain(`\`${fallback}\``);
  }
  const known = rows.map(([cell = '']) => cell.replaceAll('`', '')).filter((name) => name.startsWith('BACKUPVM_'));
  expect(known.filter((name) => !inCode.has(name))).toEqual([]);
});
