import { z } from 'zod';
import { flag, name, parseInput } from './parse-input.js';
import { policySchema, requireKeepRule } from './retention-policy.js';

const schema = z.strictObject(
  {
    vm: name('the name of a VM').optional(),
    hypervisor: name('the name of a registered hypervisor').optional(),
    repository: name('the name of a registered repository').optional(),
    policy: policySchema.optional(),
    dryRun: flag().default(false),
  },
  `expected an object such as {"vm":"web01"}, or {} for all VMs of the only repository`,
);

/** The input of PruneBackups with its defaults filled in. */
export type PruneBackupsInput = z.output<typeof schema>;
/** The input of PruneBackups as people write it. */
export type PruneBackupsRequest = z.input<typeof schema>;

/** Checks the input of PruneBackups and fills in its defaults. @throws BackupError InvalidInput, which names every problem at once; NoPolicy */
export function parsePruneBackupsInput(input: unknown): PruneBackupsInput {
  const parsed = parseInput('PruneBackups', schema, Object.keys(schema.shape), input);
  if (parsed.policy) requireKeepRule(parsed.policy);
  return parsed;
}
