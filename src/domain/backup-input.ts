import { z } from 'zod';
import { BackupError } from './errors.js';

const name = (what: string) =>
  z
    .string(`expected ${what} as a string`)
    .min(1, `expected ${what}, not an empty string`)
    .max(200, `expected ${what} of at most 200 characters`)
    .refine((value) => !/\p{Cc}/u.test(value), `expected ${what} without control characters`);

const choice = <T extends string>(values: readonly [T, ...T[]]) =>
  z.enum(values, `expected one of ${values.map((value) => `'${value}'`).join(', ')}`);

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
    maxParallelDisks: z
      .number('expected a number')
      .int('expected a whole number')
      .min(1, 'expected 1 to 64')
      .max(64, 'expected 1 to 64')
      .default(4),
  },
  `expected an object such as {"vm":"web01"}`,
);

/** The input of BackupVM with its defaults filled in. */
export type BackupVMInput = z.output<typeof schema>;
/** The input of BackupVM as people write it. */
export type BackupVMRequest = z.input<typeof schema>;

const fields = Object.keys(schema.shape);

/**
 * Checks the input of BackupVM and fills in its defaults.
 * @throws BackupError InvalidInput, which names every problem at once
 */
export function parseBackupVMInput(input: unknown): BackupVMInput {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const problems = result.error.issues.flatMap((issue) => {
    if (issue.code === 'unrecognized_keys') {
      return issue.keys.map((key) => `unknown field '${key}' (known: ${fields.join(', ')})`);
    }
    const where = issue.path.map(String).join('.') || 'input';
    return [`${where}: ${issue.message}, found ${found(input, issue.path)}`];
  });
  throw new BackupError('InvalidInput', `Bad input of BackupVM: ${problems.join('; ')}`);
}

function found(input: unknown, path: readonly PropertyKey[]): string {
  let value = input;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key];
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
