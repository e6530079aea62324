import { setTimeout as delay } from 'node:timers/promises';
import { isGrpcServiceError, type Client, type WorkflowHandle } from '@temporalio/client';
import { defaultPayloadConverter } from '@temporalio/common';
import { mainQueue, progressQuery, type DiskHeartbeat, type Progress } from '../workflows/messages.js';
import { Interrupted } from './terminal.js';

/** How far a workflow is, bytes of the disks that it works on included. */
export interface WorkflowView<Disk extends DiskView> {
  /** What the workflow is at; null before a worker has taken it. */
  step: string | null;
  /** What hinders it, for people. */
  notice: string | null;
  disks: Disk[];
  /** What a step says of a disk that the workflow does not tell of: the one that a deletion merges. */
  aside: DiskView | null;
}

/** What every display of a disk needs. */
export interface DiskView {
  key: string;
  phase: string;
  doneBytes: number;
  totalBytes: number;
}

export interface WatchOptions<Told, Disk extends DiskView> {
  signal: AbortSignal;
  show: (view: WorkflowView<Disk>) => void;
  /** How far a disk is, from what the workflow tells of it and what the step says that works on it, if one does. */
  measure: (disk: Told, heartbeat: DiskHeartbeat | undefined) => Disk;
}

type Description = Awaited<ReturnType<WorkflowHandle['describe']>>;

const pollMs = 1_000; // a person watches; each poll costs the worker a query
const patienceMs = 10_000; // a worker that runs takes a workflow's first task within a second

/**
 * Follows a workflow to its end and shows how far it is. A Temporal server that is away for a while is waited for.
 * @throws WorkflowFailedError when it failed; Interrupted when `signal` aborts: the workflow goes on
 */
export async function watchWorkflow<Result, Told extends { key: string }, Disk extends DiskView>(
  client: Client,
  handle: WorkflowHandle,
  { signal, show, measure }: WatchOptions<Told, Disk>,
): Promise<Result> {
  let progress: Progress<Told> | null = null;
  let untakenSince: number | null = null;
  for (;;) {
    const description = await describe(handle);
    if (description && description.status.name !== 'RUNNING') return (await handle.result()) as Result;
    const isUntaken = description !== null && isWaitingForWorker(description);
    untakenSince = isUntaken ? (untakenSince ?? Date.now()) : null;
    if (description && !isUntaken) progress = (await query<Told>(client, handle)) ?? progress;
    const heartbeats = description ? readHeartbeats(description) : [];
    const disks = (progress?.disks ?? []).map((disk) =>
      measure(
        disk,
        heartbeats.find(({ key }) => key === disk.key),
      ),
    );
    const other = progress && heartbeats.find(({ key }) => !disks.some((disk) => disk.key === key));
    const aside = other ? { phase: '', ...other } : null;
    show({ step: progress?.step ?? null, notice: noticeFor(description, untakenSince), disks, aside });
    try {
      await delay(pollMs, undefined, { signal });
    } catch {
      throw new Interrupted('Interrupted');
    }
  }
}

/** Null while the server does not answer. */
async function describe(handle: WorkflowHandle): Promise<Description | null> {
  try {
    return await handle.describe();
  } catch (error) {
    if (isAway(error)) return null;
    throw error;
  }
}

const grpcAway = [4, 14]; // DEADLINE_EXCEEDED, UNAVAILABLE

function isAway(error: unknown): boolean {
  for (let current = error; current instanceof Error; current = current.cause) {
    if (isGrpcServiceError(current)) return grpcAway.includes(current.code);
  }
  return false;
}

/** Whether a workflow task is ready that no worker has taken. */
function isWaitingForWorker({ raw }: Description): boolean {
  const scheduled = 1; // PendingWorkflowTaskState SCHEDULED; the enum itself is not part of the client package
  return Number(raw.pendingWorkflowTask?.state) === scheduled;
}

/** Null when it cannot be had right now: the workflow has not begun, or its worker has just gone. */
async function query<Told>(client: Client, handle: WorkflowHandle): Promise<Progress<Told> | null> {
  try {
    // A query waits for a worker; a worker that runs answers within milliseconds.
    return (await client.withDeadline(Date.now() + 5_000, () => handle.query(progressQuery))) as Progress<Told>;
  } catch {
    return null; // what ends the watch is the workflow's end, and describe() reports what is wrong with the server
  }
}

function noticeFor(description: Description | null, untakenSince: number | null): string | null {
  if (!description) return 'The Temporal server does not answer; still trying';
  if (untakenSince === null) return failedAttempt(description);
  if (Date.now() - untakenSince < patienceMs) return null;
  return `no worker polls task queue '${mainQueue}' of this namespace; check TEMPORAL_NAMESPACE, or start one with 'backupvm worker'`;
}

/** A step that is tried again says why, while there is time to mend it. */
function failedAttempt({ raw }: Description): string | null {
  const failing = raw.pendingActivities?.find(({ attempt, lastFailure }) => Number(attempt) > 1 && lastFailure);
  if (!failing) return null;
  return `${failing.activityType?.name ?? 'A step'} is tried again (attempt ${failing.attempt ?? 1}): ${failing.lastFailure?.message ?? ''}`;
}

function readHeartbeats({ raw }: Description): DiskHeartbeat[] {
  return (raw.pendingActivities ?? []).flatMap(({ heartbeatDetails }) => {
    const [payload] = heartbeatDetails?.payloads ?? [];
    const details = payload ? defaultPayloadConverter.fromPayload<DiskHeartbeat | null>(payload) : null;
    return typeof details === 'object' && details !== null && 'doneBytes' in details ? [details] : [];
  });
}
