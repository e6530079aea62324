import { z } from 'zod';
import { name, parseInput } from './parse-input.js';

const schema = z.strictObject(
  {
    vm: name('the name of a VM'),
    hypervisor: name('the name of a registered hypervisor').optional(),
  },
  `expected an object such as {"vm":"web01"}`,
);

/** The input of ForgetVM. */
export type ForgetVMInput = z.output<typeof schema>;
/** The input of ForgetVM as people write it. */
export type ForgetVMRequest = z.input<typeof schema>;

/** The result of ForgetVM. */
export interface ForgetVMResult {
  vm: string;
  /** The hypervisor's own id of the VM. */
  vmId: string;
  /** The change ids that the hypervisor held. */
  forgotten: string[];
}

/** Checks the input of ForgetVM. @throws BackupError InvalidInput, which names every problem at once */
export function parseForgetVMInput(input: unknown): ForgetVMInput {
  return parseInput('ForgetVM', schema, Object.keys(schema.shape), input);
}
