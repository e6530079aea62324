import { describe, expect, test } from 'vitest';
import { formatDuration, formatFields, formatTable, formatTime, printable } from '../../../src/cli/format.js';

test.each([
  [0, '0 s'],
  [-5_000, '0 s'],
  [59_400, '59 s'],
  [59_600, '1 min 00 s'],
  [184_000, '3 min 04 s'],
  [7_500_000, '2 h 05 min'],
])('%i ms is shown as %s', (durationMs, text) => expect(formatDuration(durationMs)).toBe(text));

test('a time is shown in the zone of this machine', () => {
  expect(formatTime(new Date(2026, 10, 3, 1, 5, 9))).toBe('2026-11-03 01:05:09');
});

describe('a table', () => {
  const rows = [
    ['web01', '1.2 GiB', 'x'],
    ['日本語', '512 B', 'x'],
    ['größer', '0 B', 'x'],
  ];

  test('keeps its columns below each other, also where characters are wide', () => {
    expect(formatTable(['NAME', 'SIZE', 'NOTE'], rows, { right: ['SIZE'], colours: false }).split('\n')).toEqual([
      'NAME       SIZE  NOTE',
      'web01   1.2 GiB  x',
      '日本語    512 B  x',
      'größer      0 B  x',
    ]);
  });

  test('has bold headings only where colours are shown, and they change no width', () => {
    const lines = formatTable(['NAME', 'SIZE', 'NOTE'], rows, { colours: true }).split('\n');
    expect(lines[0]).toContain('\u001b[1mNAME');
    expect(lines.slice(1).join('\n')).not.toContain('\u001b');
    const escapes = new RegExp(`${String.fromCharCode(27)}\\[\\d+m`, 'g');
    expect(lines[0]?.replaceAll(escapes, '').indexOf('NOTE')).toBe(lines[1]?.indexOf('x'));
  });

  test('shows names that would move the cursor by their codes', () => {
    const text = formatTable(['NAME'], [['a\u001b[2Jb\nc']], { colours: false });
    expect(text).toBe('NAME\na\\x1b[2Jb\\x0ac');
  });
});

test('fields stand below each other', () => {
  const fields = [
    ['VM', 'web01'],
    ['Repository', 'main'],
  ] as const;
  expect(formatFields(fields)).toBe('VM:         web01\nRepository: main');
});

test('letters of all languages stay as they are', () => expect(printable('日本語 ü "x"')).toBe('日本語 ü "x"'));
