import { z } from 'zod';
import { BackupError } from './errors.js';

/** A name that a person gave: of a VM, a repository, a disk. */
export const name = (what: string) =>
  z
    .string(`expected ${what} as a string`)
    .min(1, `expected ${what}, not an empty string`)
    .max(200, `expected ${what} of at most 200 characters`)
    .refine((value) => !/\p{Cc}/u.test(value), `expected ${what} without control characters`);

export const choice = <T extends string>(values: readonly [T, ...T[]]) =>
  z.enum(values, `expected one of ${values.map((value) => `'${value}'`).join(', ')}`);

export const count = (min: number, max: number) =>
  z
    .number('expected a number')
    .int('expected a whole number')
    .min(min, `expected ${min} to ${max}`)
    .max(max, `expected ${min} to ${max}`);

export const flag = () => z.boolean('expected true or false');

/** For rules about several fields: they hold also when one of the fields is wrong by itself, so that all problems are named at once. */
export const isObject = ({ value }: { value: unknown }) => typeof value === 'object' && value !== null;

/**
 * Checks the input of a workflow and fills in its defaults.
 * @throws BackupError InvalidInput, which names every problem at once
 */
export function parseInput<T extends z.ZodType>(
  workflow: string,
  schema: T,
  fields: string[],
  input: unknown,
): z.output<T> {
  const result = schema.safeParse(input);
  if (result.success) return result.data;
  const problems = result.error.issues.flatMap((issue) => {
    const where = issue.path.map(String).join('.') || 'input';
    if (issue.code === 'unrecognized_keys') {
      const known = issue.path.length === 0 ? ` (known: ${fields.join(', ')})` : ` in ${where}`;
      return issue.keys.map((key) => `unknown field '${key}'${known}`);
    }
    return [`${where}: ${issue.message}, found ${found(input, issue.path)}`];
  });
  throw new BackupError('InvalidInput', `Bad input of ${workflow}: ${problems.join('; ')}`);
}

function found(input: unknown, path: readonly PropertyKey[]): string {
  let value = input;
  for (const key of path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key];
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
