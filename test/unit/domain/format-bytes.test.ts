import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatBytes } from '../../../src/domain/format-bytes.js';

const KiB = 1024;

test.each([
  [0, '0 B'],
  [1, '1 B'],
  [1023, '1023 B'],
  [KiB, '1.0 KiB'],
  [1536, '1.5 KiB'],
  [1023.9 * KiB, '1023.9 KiB'],
  [KiB ** 2 - 1, '1.0 MiB'],
  [KiB ** 2, '1.0 MiB'],
  [10 * KiB ** 3, '10.0 GiB'],
  [1.25 * KiB ** 4, '1.3 TiB'],
  [Number.MAX_SAFE_INTEGER, '8.0 PiB'],
])('%d bytes are %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test('a number of four digits is never shown where the next unit would do', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (bytes) => {
      const [number = '', unit] = formatBytes(bytes).split(' ');
      expect(unit === 'B' ? Number(number) : Math.floor(Number(number))).toBeLessThan(1024);
    }),
    { seed: 3 },
  );
});
