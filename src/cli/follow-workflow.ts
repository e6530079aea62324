import { WorkflowExecutionAlreadyStartedError, type WorkflowHandle } from '@temporalio/client';
import { BackupError } from '../domain/errors.js';
import { mainQueue, type DiskHeartbeat } from '../workflows/messages.js';
import type { Temporal } from './connect.js';
import { describeWorkflowFailure } from './failure.js';
import { printable } from './format.js';
import { createProgressDisplay, type DisplayWords } from './show-progress.js';
import { Interrupted, type CommonOptions, type Output, type Terminal } from './terminal.js';
import { watchWorkflow, type DiskView } from './watch-workflow.js';

export interface WorkflowStart {
  /** The exact type name. */
  type: string;
  workflowId: string;
  input: unknown;
  /** One line for the Web UI. */
  summary: string;
}

/** Starts a workflow; undefined when one with its id runs already. @throws BackupError TemporalUnreachable */
export async function startWorkflow(
  { client, connection, namespace }: Temporal,
  { type, workflowId, input, summary }: WorkflowStart,
): Promise<WorkflowHandle | undefined> {
  try {
    return await client.workflow.start(type, {
      taskQueue: mainQueue,
      workflowId,
      args: [input],
      workflowIdConflictPolicy: 'FAIL', // the one that runs goes on
      workflowIdReusePolicy: 'ALLOW_DUPLICATE',
      staticSummary: summary,
    });
  } catch (error) {
    if (error instanceof WorkflowExecutionAlreadyStartedError) return undefined;
    const said =
      error instanceof Error ? `${error.message}${error.cause instanceof Error ? `: ${error.cause.message}` : ''}` : '';
    throw new BackupError(
      'TemporalUnreachable',
      `Expected the Temporal server at ${connection.options.address} to start a workflow in namespace '${namespace}', found: ${said}`,
      { cause: error },
    );
  }
}

/** What people see of a workflow that they follow. */
export interface Following<Told, Disk extends DiskView> extends DisplayWords<Disk> {
  measure: (disk: Told, heartbeat: DiskHeartbeat | undefined) => Disk;
  /** What goes on when nobody watches any more, such as `backup`. */
  noun: string;
  /** What a cancelled one did not come to, such as `no restore point was made`. */
  nothingMade: string;
}

/**
 * Shows how far a workflow is until it ends. @returns its result
 * @throws BackupError what it failed with; Interrupted when nobody watches any more: then it goes on
 */
export async function followWorkflow<Result, Told extends { key: string }, Disk extends DiskView>(
  terminal: Terminal,
  { client }: Temporal,
  handle: WorkflowHandle,
  options: CommonOptions,
  { title, diskLine, measure, noun, nothingMade }: Following<Told, Disk>,
): Promise<Result> {
  const { workflowId } = handle;
  const display = createProgressDisplay(terminal, options, { title, diskLine });
  try {
    const watching = { signal: terminal.onInterrupt(), show: display.show, measure };
    const result = await watchWorkflow<Result, Told, Disk>(client, handle, watching);
    await display.end('complete');
    return result;
  } catch (error) {
    const isInterrupted = error instanceof Interrupted;
    await display.end(isInterrupted ? 'left' : 'failed');
    if (!isInterrupted) throw describeWorkflowFailure(error, workflowId, nothingMade);
    throw new Interrupted(
      `No longer watched; the ${noun} goes on as workflow '${workflowId}'\n` +
        `  watch it:  temporal workflow show --follow --workflow-id ${quote(workflowId)}\n` +
        `  end it:    ${howToCancel(workflowId)}`,
    );
  }
}

/** The same for a workflow that tells of no disks. */
export async function followSteps<Result>(
  terminal: Terminal,
  temporal: Temporal,
  handle: WorkflowHandle,
  options: CommonOptions,
  words: Pick<Following<never, DiskView>, 'title' | 'noun' | 'nothingMade'>,
): Promise<Result> {
  const noDisks = { measure: (disk: never) => disk, diskLine: () => '' };
  return followWorkflow<Result, never, DiskView>(terminal, temporal, handle, options, { ...words, ...noDisks });
}

/** What a command says that does not wait for the end. `where` tells how to look at it. */
export function describeStart(
  { workflowId, firstExecutionRunId }: WorkflowHandle & { firstExecutionRunId?: string },
  where = '',
): Output {
  return {
    document: { workflowId, runId: firstExecutionRunId },
    text: `Started workflow '${printable(workflowId)}'; ${where}end it: ${howToCancel(workflowId)}`,
  };
}

export function howToCancel(workflowId: string): string {
  return `temporal workflow cancel --workflow-id ${quote(workflowId)}`;
}

/** For people to paste into a shell. */
function quote(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll(`'`, `'\\''`)}'`;
}
