import { z } from 'zod';
import { choice, flag, isObject, name, parseInput } from './parse-input.js';

const schema = z
  .strictObject(
    {
      point: name('the id of a restore point, or the beginning of it').optional(),
      vm: name('the name of a VM').optional(),
      all: flag().default(false),
      hypervisor: name('the name of a registered hypervisor').optional(),
      repository: name('the name of a registered repository').optional(),
      descendants: choice(['refuse', 'delete', 'merge']).default('refuse'),
      dryRun: flag().default(false),
    },
    `expected an object such as {"point":"3f2a91c0"}`,
  )
  .refine(({ point, vm, all }) => point !== undefined || (all && vm !== undefined), {
    path: ['point'],
    message: `expected the restore point to delete, or a VM in 'vm' together with "all":true`,
    when: isObject,
  });

/** The input of DeleteBackup with its defaults filled in. */
export type DeleteBackupInput = z.output<typeof schema>;
/** The input of DeleteBackup as people write it. */
export type DeleteBackupRequest = z.input<typeof schema>;

/** Checks the input of DeleteBackup and fills in its defaults. @throws BackupError InvalidInput, which names every problem at once */
export function parseDeleteBackupInput(input: unknown): DeleteBackupInput {
  return parseInput('DeleteBackup', schema, Object.keys(schema.shape), input);
}
