import { expect, test, vi } from 'vitest';
import { diskLine, type BackupDiskView } from '../../../src/cli/backup.js';
import { createProgressDisplay } from '../../../src/cli/show-progress.js';
import { recordTerminal } from './run-command.js';

const MiB = 2 ** 20;
const words = { title: 'Backup of VM web01', diskLine };
const disk = (changes: Partial<BackupDiskView>): BackupDiskView => ({
  ...{ key: 'SER1', target: 'vda', type: 'full', reason: 'first_backup', phase: 'planned' },
  ...{ sizeBytes: 1024 * MiB, changedBytes: 400 * MiB, writtenBytes: 0, doneBytes: 0, totalBytes: 400 * MiB },
  ...changes,
});

test.each([
  [disk({}), 'vda  full (the first backup of this VM)  planned'],
  [disk({ phase: 'copying', doneBytes: 100 * MiB }), 'copying  25 %, 100.0 MiB of 400.0 MiB'],
  [disk({ phase: 'copying', doneBytes: 500 * MiB }), 'copying  100 %, 500.0 MiB of 400.0 MiB'],
  [disk({ phase: 'copying', totalBytes: 0 }), '  copying'],
  [disk({ phase: 'copied', type: 'incremental', reason: 'parent_good' }), 'copied  400.0 MiB'],
])('one disk is one line', (view, text) => expect(diskLine(view)).toContain(text));

test('without a terminal a line is printed when something changes, and for each tenth of a copy', () => {
  const { terminal, written } = recordTerminal({});
  const display = createProgressDisplay(terminal, {}, words);
  const show = (disks: BackupDiskView[], notice: string | null = null) =>
    display.show({ step: 'copying', notice, disks, aside: null });
  show([]);
  show([disk({ phase: 'copying', doneBytes: 0 })]);
  show([disk({ phase: 'copying', doneBytes: 20 * MiB })]);
  show([disk({ phase: 'copying', doneBytes: 60 * MiB })], 'no worker');
  show([disk({ phase: 'copying', doneBytes: 61 * MiB })], 'no worker');
  show([disk({ phase: 'copied' })]);
  expect(written.stdout.trimEnd().split('\n')).toEqual([
    'Backup of VM web01',
    'copying',
    '  vda  full (the first backup of this VM)  copying  0 %, 0 B of 400.0 MiB',
    'no worker',
    '  vda  full (the first backup of this VM)  copying  15 %, 60.0 MiB of 400.0 MiB',
    '  vda  full (the first backup of this VM)  copied  400.0 MiB',
  ]);
});

const merging = (doneBytes: number) => ({ key: 'SER1', phase: 'merging', doneBytes, totalBytes: 400 * MiB });

test('a disk that only a step tells of is shown beside the step', async () => {
  const view = { step: 'delete 1 restore point(s)', notice: null, disks: [] };
  const plain = recordTerminal({});
  const lines = createProgressDisplay(plain.terminal, {}, { ...words, title: 'Delete' });
  for (const doneMiB of [100, 101, 200]) lines.show({ ...view, aside: merging(doneMiB * MiB) });
  expect(plain.written.stdout.trimEnd().split('\n')).toEqual([
    'Delete',
    'delete 1 restore point(s)',
    '  disk SER1: merging 25 %, 100.0 MiB of 400.0 MiB',
    '  disk SER1: merging 50 %, 200.0 MiB of 400.0 MiB',
  ]);
  const live = recordTerminal({});
  Object.assign(live.terminal.stdout, { isTTY: true, columns: 120 });
  const display = createProgressDisplay(live.terminal, {}, { ...words, title: 'Delete' });
  await vi.waitUntil(() => {
    display.show({ ...view, aside: merging(100 * MiB) });
    return live.written.stdout.includes('delete 1 restore point(s): disk SER1: merging 25 %');
  });
  await display.end('complete');
});

test('with --json no progress is printed', async () => {
  const { terminal, written } = recordTerminal({});
  const display = createProgressDisplay(terminal, { json: true }, words);
  display.show({ step: 'copying', notice: null, disks: [disk({})], aside: null });
  await display.end('complete');
  expect(written).toEqual({ stdout: '', stderr: '' });
});

test.each(['complete', 'failed', 'left'] as const)(
  'live lines end when the backup does, however soon: %s',
  async (how) => {
    for (const disks of [[], [disk({ phase: 'copying', doneBytes: 100 * MiB })]]) {
      const { terminal, written } = recordTerminal({});
      Object.assign(terminal.stdout, { isTTY: true, columns: 120 });
      const display = createProgressDisplay(terminal, {}, words);
      await new Promise(setImmediate); // the root task has started
      display.show({ step: 'copying', notice: null, disks, aside: null });
      await display.end(how);
      expect(written.stdout).toContain('Backup of VM web01');
      if (disks.length > 0) expect(written.stdout).toContain('copying  25 %, 100.0 MiB of');
    }
  },
);
