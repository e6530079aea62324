import type { Command } from 'commander';
import { BackupError } from '../domain/errors.js';
import { parseForgetVMInput, type ForgetVMRequest, type ForgetVMResult } from '../domain/forget-input.js';
import { addCommand } from './command.js';
import { withTemporal } from './connect.js';
import { describeStart, followSteps, howToCancel, startWorkflow } from './follow-workflow.js';
import { printable } from './format.js';
import { print, type CommonOptions, type Output, type Terminal } from './terminal.js';

interface ForgetOptions extends CommonOptions {
  hypervisor?: string;
  detach?: true;
}

export function addForgetCommand(group: Command, terminal: Terminal): void {
  addCommand(
    group,
    'forget',
    'Remove all checkpoints and bitmaps that backups made on a VM, so that its owner can revert to a snapshot; the next backup is a full',
    'vm forget web01',
  )
    .argument('<vm>', 'the name of a VM')
    .option('--hypervisor <name>', 'where the VM is (default: the only one registered)')
    .option('--detach', 'start it, and do not wait for its end')
    .action(async (vm: string, { hypervisor, ...options }: ForgetOptions) => {
      const request: ForgetVMRequest = hypervisor === undefined ? { vm } : { vm, hypervisor };
      parseForgetVMInput(request);
      const output = await withTemporal(async (temporal) => {
        const workflowId = `forget-vm/${vm}`;
        const summary = `Forget the change ids of ${printable(vm)}`;
        const handle = await startWorkflow(temporal, { type: 'ForgetVM', workflowId, input: request, summary });
        if (!handle) {
          throw new BackupError(
            'InUse',
            `workflow '${workflowId}' runs already; wait for it, or end it: ${howToCancel(workflowId)}`,
          );
        }
        if (options.detach) return describeStart(handle);
        const words = { title: summary, noun: 'step', nothingMade: 'run it again: it does what is left' };
        return describe(await followSteps<ForgetVMResult>(terminal, temporal, handle, options, words), workflowId);
      });
      print(terminal, options, output);
    });
}

function describe(result: ForgetVMResult, workflowId: string): Output {
  const { vm, forgotten } = result;
  const count = forgotten.length === 0 ? 'no checkpoint or bitmap of ours' : `${forgotten.length} change id(s) removed`;
  return {
    document: { workflowId, ...result },
    text: [`VM ${printable(vm)}: ${count}; its next backup is a full`, ...forgotten.map((id) => `  ${id}`)].join('\n'),
  };
}
