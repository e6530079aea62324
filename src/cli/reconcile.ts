import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { readConfig } from '../config/config.js';
import type { ReconcileHostResult } from '../workflows/reconcile-host.js';
import { mainQueue } from '../workflows/messages.js';
import { addCommand } from './command.js';
import { withTemporal } from './connect.js';
import { describeWorkflowFailure } from './failure.js';
import { formatTable, shortId } from './format.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface ReconcileOptions extends CommonOptions {
  host?: string;
  dryRun?: true;
}

export function addReconcileCommand(program: Command, terminal: Terminal): void {
  addCommand(
    program,
    'reconcile',
    'Clean up after backups whose workflow was terminated or timed out',
    'reconcile --dry-run',
  )
    .option('--host <host>', 'whose backups (default: this machine)')
    .option('--dry-run', 'only say what it would do, and why')
    .action(async (options: ReconcileOptions) => {
      const host = options.host ?? readConfig(terminal.env).host;
      const workflowId = `reconcile/${host}/${randomUUID()}`; // beside the schedule's: both are safe at any time
      const result = await withTemporal(async ({ client }) => {
        try {
          return (await client.workflow.execute('ReconcileHost', {
            taskQueue: mainQueue,
            workflowId,
            args: [{ host, dryRun: options.dryRun === true }],
          })) as ReconcileHostResult;
        } catch (error) {
          throw describeWorkflowFailure(error, workflowId);
        }
      });
      print(terminal, options, { document: result, text: describe(result, hasColours(terminal)) });
    });
}

function describe({ host, orphans }: ReconcileHostResult, colours: boolean): string {
  if (orphans.length === 0) return `Nothing to clean up on host '${host}'`;
  const rows = orphans.map(({ vm, jobId, workflowId, runState, ports, outcome }) => [
    vm,
    shortId(jobId),
    workflowId,
    runState,
    ports.join(', ') || '-',
    outcome,
  ]);
  return formatTable(['VM', 'JOB', 'WORKFLOW', 'ITS RUN', 'PORTS', 'OUTCOME'], rows, { colours });
}
