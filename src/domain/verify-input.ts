import { z } from 'zod';
import { choice, count, flag, isObject, name, parseInput } from './parse-input.js';

const schema = z
  .strictObject(
    {
      point: name('the id of a restore point, or the beginning of it').optional(),
      vm: name('the name of a VM').optional(),
      hypervisor: name('the name of a registered hypervisor').optional(),
      repository: name('the name of a registered repository').optional(),
      level: choice(['structure', 'checksum', 'content']).default('checksum'),
      all: flag().default(false),
      maxParallelDisks: count(1, 64).default(4),
    },
    `expected an object such as {"vm":"web01"}`,
  )
  .refine(({ point, vm }) => (point === undefined) !== (vm === undefined), {
    path: ['point'],
    message: `expected either 'point' or 'vm'`,
    when: isObject,
  })
  .refine(({ vm, all }) => !all || vm !== undefined, {
    path: ['all'],
    message: `expected 'vm' beside 'all': it means all restore points of a VM`,
    when: isObject,
  });

/** The input of VerifyBackup with its defaults filled in. */
export type VerifyBackupInput = z.output<typeof schema>;
/** The input of VerifyBackup as people write it. */
export type VerifyBackupRequest = z.input<typeof schema>;
/** What a verification looks at; each level looks at what those before it do, too. */
export type VerifyLevel = VerifyBackupInput['level'];

/** Checks the input of VerifyBackup and fills in its defaults. @throws BackupError InvalidInput, which names every problem at once */
export function parseVerifyBackupInput(input: unknown): VerifyBackupInput {
  return parseInput('VerifyBackup', schema, Object.keys(schema.shape), input);
}
