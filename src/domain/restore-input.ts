import { z } from 'zod';
import { keepTime } from './keep-replaced.js';
import { choice, count, flag, isObject, name, parseInput } from './parse-input.js';

const directory = z
  .string('expected the absolute path of a directory')
  .regex(/^\//, 'expected the absolute path of a directory')
  .refine((path) => !/\p{Cc}/u.test(path), 'expected a path without control characters');

const target = z.discriminatedUnion(
  'kind',
  [
    z.strictObject({ kind: z.literal('files'), directory, format: choice(['qcow2', 'raw']).default('qcow2') }),
    z.strictObject({
      kind: z.literal('vm'),
      name: name('the name of the new VM').refine((vm) => !vm.includes('/'), 'expected a name without slashes'),
      directory,
      start: flag().default(false),
      hypervisor: name('the name of a registered hypervisor').optional(),
    }),
    z.strictObject({ kind: z.literal('in-place') }),
  ],
  `expected an object whose 'kind' is 'files', 'vm' or 'in-place'`,
);

const schema = z
  .strictObject(
    {
      point: name('the id of a restore point, or the beginning of it').optional(),
      vm: name('the name of a VM').optional(),
      at: z.iso.datetime({ offset: true, error: 'expected a time such as 2026-11-23T01:45:00Z' }).optional(),
      hypervisor: name('the name of a registered hypervisor').optional(),
      repository: name('the name of a registered repository').optional(),
      disks: z
        .array(name('the key or target of a disk'), 'expected a list of disk keys or targets')
        .min(1, 'expected at least one disk, or no such field to restore all of them')
        .optional(),
      target,
      overwrite: flag().default(false),
      allowDamaged: flag().default(false),
      keepReplaced: keepTime.optional(),
      maxParallelDisks: count(1, 64).default(4),
    },
    `expected an object such as {"vm":"web01","target":{"kind":"files","directory":"/var/restore"}}`,
  )
  .refine(({ point, vm }) => (point === undefined) !== (vm === undefined), {
    path: ['point'],
    message: `expected either 'point' or 'vm'`,
    when: isObject,
  })
  .refine(({ point, at }) => point === undefined || at === undefined, {
    path: ['at'],
    message: `expected no time beside 'point'`,
    when: isObject,
  });

/** The input of RestoreVM with its defaults filled in. */
export type RestoreVMInput = z.output<typeof schema>;
/** The input of RestoreVM as people write it. */
export type RestoreVMRequest = z.input<typeof schema>;
/** Where a restore goes. */
export type RestoreTarget = RestoreVMInput['target'];

/** Checks the input of RestoreVM and fills in its defaults. @throws BackupError InvalidInput, which names every problem at once */
export function parseRestoreVMInput(input: unknown): RestoreVMInput {
  return parseInput('RestoreVM', schema, Object.keys(schema.shape), input);
}
