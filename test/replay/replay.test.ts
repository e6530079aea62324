import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, Worker, type WorkflowBundleWithSourceMap } from '@temporalio/worker';
import { DeterminismViolationError } from '@temporalio/workflow';
import { beforeAll, describe, expect, test } from 'vitest';

const pathOf = (file: string) => fileURLToPath(new URL(file, import.meta.url));
const histories = pathOf('../histories/');
const stored = (await readdir(histories, { recursive: true })).filter((name) => name.endsWith('.json')).sort();

interface StoredHistory {
  events: { eventType: string; workflowExecutionStartedEventAttributes?: { workflowId: string } }[];
}

async function read(name: string): Promise<StoredHistory> {
  return JSON.parse(await readFile(join(histories, name), 'utf8')) as StoredHistory;
}

async function bundle(file: string): Promise<WorkflowBundleWithSourceMap> {
  return bundleWorkflowCode({ workflowsPath: pathOf(file), logger: new DefaultLogger('ERROR') });
}

/** Goes through a history as a worker does that takes the run over. */
async function replay(workflowBundle: WorkflowBundleWithSourceMap, name: string): Promise<void> {
  const history = await read(name);
  const workflowId = history.events[0]?.workflowExecutionStartedEventAttributes?.workflowId;
  await Worker.runReplayHistory({ workflowBundle }, history, workflowId);
}

describe("today's workflow code", () => {
  let today: WorkflowBundleWithSourceMap;
  beforeAll(async () => {
    today = await bundle('../../src/workflows/index.ts');
  });

  test.each(stored)('replays %s', (name) => replay(today, name));
});

describe('a workflow', () => {
  test.each([
    ['takes a step more', 'a-step-more.ts'],
    ['takes its steps in another order', 'another-order.ts'],
  ])('that %s is found out', async (_what, file) => {
    const changed = await bundle(`./changed/${file}`);
    await expect(replay(changed, 'BackupVM/full.json')).rejects.toThrow(DeterminismViolationError);
  });
});

describe('the stored history', () => {
  const closed = (how: string) => `WORKFLOW_EXECUTION_${how}`;
  test.each([
    ['full', closed('COMPLETED')],
    ['incremental', closed('COMPLETED')],
    ['nothing-changed', closed('COMPLETED')],
    ['full-change-id-lost', closed('COMPLETED')],
    ['compared', closed('COMPLETED')],
    ['waited-for-a-port', 'TIMER_FIRED', closed('COMPLETED')],
    ['copied-anew', 'ACTIVITY_TASK_FAILED', 'TIMER_FIRED', closed('COMPLETED')],
    ['cancelled-in-copy', closed('CANCEL_REQUESTED'), 'ACTIVITY_TASK_CANCEL_REQUESTED', closed('CANCELED')],
    ['failed-change-id-lost', 'ACTIVITY_TASK_FAILED', closed('FAILED')],
    ['failed-parent-unusable', 'ACTIVITY_TASK_FAILED', 'ACTIVITY_TASK_CANCEL_REQUESTED', closed('FAILED')],
    ['refused-unknown-vm', 'ACTIVITY_TASK_FAILED', closed('FAILED')],
    ['refused-already-running', 'MARKER_RECORDED', closed('FAILED')],
    ['refused-bad-input', closed('FAILED')],
  ])('%s of BackupVM is what it is called', (name, ...expected) => expectEvents(`BackupVM/${name}`, expected));

  test.each([
    ['files', closed('COMPLETED')],
    ['new-vm-started', closed('COMPLETED')],
    ['in-place', closed('COMPLETED')],
    ['waited-for-a-prune', 'TIMER_FIRED', closed('COMPLETED')],
    ['cancelled-in-write', closed('CANCEL_REQUESTED'), 'ACTIVITY_TASK_CANCEL_REQUESTED', closed('CANCELED')],
    ['failed-point-damaged', 'ACTIVITY_TASK_FAILED', closed('FAILED')],
    ['refused-file-exists', 'ACTIVITY_TASK_FAILED', closed('FAILED')],
  ])('%s of RestoreVM is what it is called', (name, ...expected) => expectEvents(`RestoreVM/${name}`, expected));

  test.each([
    ['good', closed('COMPLETED')],
    ['damaged', closed('COMPLETED')],
    ['waited-for-a-prune', 'TIMER_FIRED', closed('COMPLETED')],
    ['cancelled-in-read', closed('CANCEL_REQUESTED'), 'ACTIVITY_TASK_CANCEL_REQUESTED', closed('CANCELED')],
    ['refused-bad-input', closed('FAILED')],
    ['refused-no-point', 'MARKER_RECORDED', closed('FAILED')],
  ])('%s of VerifyBackup is what it is called', (name, ...expected) => expectEvents(`VerifyBackup/${name}`, expected));

  test.each([
    ['merged', 'MARKER_RECORDED', 'ACTIVITY_TASK_COMPLETED', closed('COMPLETED')],
    ['newest', 'ACTIVITY_TASK_COMPLETED', closed('COMPLETED')],
    ['dry-run', 'MARKER_RECORDED', closed('COMPLETED')],
    ['waited-for-a-restore', 'TIMER_FIRED', closed('COMPLETED')],
    ['cancelled-while-it-waited', closed('CANCEL_REQUESTED'), 'TIMER_CANCELED', closed('CANCELED')],
    ['refused-has-descendants', 'ACTIVITY_TASK_FAILED', closed('FAILED')],
    ['refused-bad-input', closed('FAILED')],
  ])('%s of DeleteBackup is what it is called', (name, ...expected) => expectEvents(`DeleteBackup/${name}`, expected));

  test.each([
    ['nothing-to-do', closed('COMPLETED')],
    ['dry-run-with-survey', closed('COMPLETED')],
    ['cleaned-up', 'MARKER_RECORDED', closed('COMPLETED')],
    ['deletion-being-finished', 'CHILD_WORKFLOW_EXECUTION_STARTED', closed('COMPLETED')],
  ])('%s of ReconcileHost is what it is called', (name, ...expected) =>
    expectEvents(`ReconcileHost/${name}`, expected),
  );

  test.each([
    ['PruneBackups/dry-run', 'MARKER_RECORDED', 'CHILD_WORKFLOW_EXECUTION_COMPLETED', closed('COMPLETED')],
    ['PruneBackups/pruned', 'MARKER_RECORDED', 'CHILD_WORKFLOW_EXECUTION_COMPLETED', closed('COMPLETED')],
    ['PruneBackups/refused-no-policy', 'MARKER_RECORDED', closed('FAILED')],
    ['PruneVM/pruned', 'MARKER_RECORDED', 'ACTIVITY_TASK_COMPLETED', closed('COMPLETED')],
    ['PruneVM/nothing-expired', 'MARKER_RECORDED', closed('COMPLETED')],
  ])('%s is what it is called', (name, ...expected) => expectEvents(name, expected));
});

/** These events, in this order of their first coming. */
async function expectEvents(name: string, expected: readonly string[]): Promise<void> {
  const { events } = await read(`${name}.json`);
  const found = events.map(({ eventType }) => eventType.replace('EVENT_TYPE_', ''));
  expect(found.filter((type, index) => expected.includes(type) && found.indexOf(type) === index)).toEqual(expected);
}
