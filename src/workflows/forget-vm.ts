import { parseForgetVMInput, type ForgetVMRequest, type ForgetVMResult } from '../domain/forget-input.js';
import { closingFailure } from './failures.js';
import { startStepReport } from './report.js';
import { forgetSteps, jobSteps } from './steps.js';

/**
 * Makes the hypervisor forget all that backups made it record of a VM: its owner can revert to a snapshot then. Restore points stay;
 * the next backup of each disk is a full. Refused while a backup of the VM runs.
 */
export async function ForgetVM(request: ForgetVMRequest): Promise<ForgetVMResult> {
  let host: string | undefined;
  try {
    const { vm, hypervisor } = parseForgetVMInput(request);
    const report = startStepReport(`Change ids of ${vm}`);
    const target = await jobSteps.lookUpHypervisor({ hypervisor });
    host = target.host;
    report(`asking host ${host} to forget them`);
    const { hypervisorId } = target;
    return { vm, ...(await forgetSteps(host).forgetChangeIds({ hypervisorId, vm })) };
  } catch (error) {
    throw closingFailure(error, host);
  }
}
