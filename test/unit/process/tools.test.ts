import { expect, test } from 'vitest';
import { requireVersion } from '../../../src/process/tools.js';

test.each([
  ['qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022', [7, 2]],
  ['qemu-img version 10.0.2', [7, 2]],
  ['qemu-img version 8.0.0', [7, 2]],
  ['nbdcopy 1.14.2\nlibnbd 1.14.2', [1, 14]],
  ['nbdkit 1.32.5 (nbdkit-1.32.5-1)', [1, 32]],
  ['OpenSSL 3.0.17 1 Jul 2025 (Library: OpenSSL 3.0.17 1 Jul 2025)', [1, 1]],
  ['setpriv from util-linux 2.38.1', [2, 33]],
] as const)('%j is new enough for %j', (output, oldest) => {
  expect(() => requireVersion('qemu-img', oldest, output)).not.toThrow();
});

test.each([
  ['qemu-img version 7.1.0', [7, 2], '7.1'],
  ['qemu-img version 6.9.9', [7, 2], '6.9'],
  ['nbdcopy 1.9.6', [1, 14], '1.9'],
  ['nbdcopy 0.99.0', [1, 14], '0.99'],
  ['', [7, 2], "''"],
  ['a program that tells no version', [7, 2], "'a program that tells no version'"],
] as const)('%j is too old for %j', (output, oldest, found) => {
  expect(() => requireVersion('qemu-img', oldest, output)).toThrow(
    expect.objectContaining({
      code: 'ToolTooOld',
      message: `Expected qemu-img ${oldest.join('.')} or newer, found ${found}`,
    }) as Error,
  );
});
