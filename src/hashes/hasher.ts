import { writeSync } from 'node:fs';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { describeFileFailure } from '../repository/file-errors.js';
import { compareTable, type CompareOrder } from './compare-table.js';
import { writeTable, type WriteOrder } from './write-table.js';

/** Where the progress and the result go, a JSON document per line. */
const reportFD = 3;
const reportIntervalMs = 500;

export type HasherOrder = WriteOrder | CompareOrder;

// A process of its own, which hash-disk.ts starts: everything in here waits.
const order = JSON.parse(process.argv[2] ?? '') as HasherOrder;
let saidAt = 0;
const say = (fraction: number) => {
  if (Date.now() - saidAt < reportIntervalMs) return;
  saidAt = Date.now();
  report({ fraction });
};
const report = (line: unknown) => writeSync(reportFD, `${JSON.stringify(line)}\n`);

try {
  report({ result: order.mode === 'write' ? writeTable(order, say) : compareTable(order, say) });
} catch (error) {
  const known = error instanceof BackupError ? error : describeFileFailure(error);
  process.stderr.write(JSON.stringify({ code: known?.code ?? 'ToolFailed', message: messageOf(known ?? error) }));
  process.exitCode = 1;
}
