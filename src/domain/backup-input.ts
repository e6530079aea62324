import { z } from 'zod';
import { choice, count, flag, name, parseInput } from './parse-input.js';

const schema = z.strictObject(
  {
    vm: name('the name of a VM'),
    hypervisor: name('the name of a registered hypervisor').optional(),
    repository: name('the name of a registered repository').optional(),
    type: choice(['auto', 'full', 'incremental']).default('auto'),
    disks: z
      .array(name('the key or target of a disk'), 'expected a list of disk keys or targets')
      .min(1, 'expected at least one disk, or no such field to back up all of them')
      .optional(),
    quiesce: choice(['auto', 'require', 'off']).default('auto'),
    onLostChangeId: choice(['full', 'fail']).default('full'),
    maxChainLength: count(1, 1000).optional(),
    maxParallelDisks: count(1, 64).default(4),
    compare: flag().default(false),
    allowIothreads: flag().default(false),
    allowPlaintext: flag().default(false),
  },
  `expected an object such as {"vm":"web01"}`,
);

/** The input of BackupVM with its defaults filled in. */
export type BackupVMInput = z.output<typeof schema>;
/** The input of BackupVM as people write it. */
export type BackupVMRequest = z.input<typeof schema>;

/** Checks the input of BackupVM and fills in its defaults. @throws BackupError InvalidInput, which names every problem at once */
export function parseBackupVMInput(input: unknown): BackupVMInput {
  return parseInput('BackupVM', schema, Object.keys(schema.shape), input);
}
