import { proxyActivities, proxyLocalActivities } from '@temporalio/workflow';
import type { ChainLeaseActivities } from '../activities/chain-leases.js';
import type { CleanUpLeaseActivities } from '../activities/clean-up-lease.js';
import type { CleanUpActivities } from '../activities/clean-up.js';
import type { CompareCopyActivities } from '../activities/compare-copy.js';
import type { DeletionPlanActivities } from '../activities/deletion-plan.js';
import type { DeletionActivities } from '../activities/deletions.js';
import type { ExportActivities } from '../activities/exports.js';
import type { ForgetActivities } from '../activities/forget-change-ids.js';
import type { JobActivities } from '../activities/jobs.js';
import type { PlaceRestoreActivities } from '../activities/place-restore.js';
import type { PrepareRestoreActivities } from '../activities/prepare-restore.js';
import type { ProbeActivities } from '../activities/probe.js';
import type { RestoreDiskActivities } from '../activities/restore-disk.js';
import type { RestoreLookUpActivities } from '../activities/restore-look-up.js';
import type { PruneActivities } from '../activities/prune.js';
import type { SealActivities } from '../activities/seal.js';
import type { SnapshotActivities } from '../activities/snapshots.js';
import type { VerifyChainActivities } from '../activities/verify-chain.js';
import type { VerifyPlanActivities } from '../activities/verify-plan.js';
import type { TransferActivities } from '../activities/transfers.js';
import { controlQueue, copyQueue } from './messages.js';

/**
 * A cancelled step is waited for: clean-up must find what it made, and nobody who still makes more. Said here because the SDK
 * does not wait by default, whatever its documentation says. Only for steps with heartbeats: without, no cancellation arrives.
 */
const toItsEnd = { cancellationType: 'WAIT_CANCELLATION_COMPLETED' } as const;

/**
 * Steps that only touch the database. Local, because each is one short query: a regular activity would cost six events of
 * history for it. A database that is away for a while only delays them.
 */
export const jobSteps = proxyLocalActivities<
  JobActivities &
    ChainLeaseActivities &
    RestoreLookUpActivities &
    DeletionPlanActivities &
    PruneActivities &
    VerifyPlanActivities
>({
  startToCloseTimeout: '30 seconds', // a query waits 10 s for a connection, and for the lock of the port table
  scheduleToCloseTimeout: '1 hour', // how long Postgres may be away
  retry: { initialInterval: '1 second', maximumInterval: '15 seconds' },
});

/** The host's first step: tells an absent host from a slow one. */
export function probeSteps(host: string) {
  return proxyActivities<ProbeActivities>(probeOptions(host));
}

/** One step, at once the host's first: tells an absent host from a slow one. */
export function forgetSteps(host: string) {
  return proxyActivities<ForgetActivities>({
    ...probeOptions(host),
    summary: 'drop every checkpoint and bitmap of the VM that is ours',
    startToCloseTimeout: '10 minutes', // several virsh calls for each checkpoint; a year of failed clean-ups left a hundred
  });
}

/** Short steps on the host. After a crash they wait for its worker to come back. */
export function hostSteps(host: string, summary: string) {
  return proxyActivities<SnapshotActivities & ExportActivities>({
    ...toItsEnd,
    summary,
    taskQueue: controlQueue(host),
    startToCloseTimeout: '30 minutes', // mapping a large disk, reading a parent's checksum anew
    heartbeatTimeout: '30 seconds', // a worker that dies is noticed within this time
    retry: { maximumAttempts: 10, maximumInterval: '30 seconds' },
  });
}

/** The copy. One attempt: a second one needs a clean file, so the workflow begins anew. */
export function copySteps(host: string, summary: string) {
  return proxyActivities<TransferActivities>({
    ...toItsEnd,
    summary,
    taskQueue: copyQueue(host),
    startToCloseTimeout: '7 days', // the largest disk over the slowest link
    heartbeatTimeout: '30 seconds',
    retry: { maximumAttempts: 1 },
  });
}

/** Comparing a copy with its source. Reads both; what differs is copied anew, so one that failed is not tried again as it is. */
export function compareSteps(host: string, summary: string) {
  return proxyActivities<CompareCopyActivities>({
    ...toItsEnd,
    summary,
    taskQueue: copyQueue(host),
    startToCloseTimeout: '7 days', // as the copy
    heartbeatTimeout: '30 seconds',
    retry: { maximumAttempts: 1 },
  });
}

/** Checking, checksums and the seal: as long as reading every new file once takes. */
export function sealSteps(host: string) {
  return proxyActivities<SealActivities>({
    ...toItsEnd,
    taskQueue: copyQueue(host),
    startToCloseTimeout: '2 days',
    heartbeatTimeout: '30 seconds',
    retry: { maximumAttempts: 10, maximumInterval: '1 minute' },
  });
}

/** Short steps of a restore on the host: what may be done, and the names that make it done. */
export function restoreSteps(host: string, summary: string) {
  return proxyActivities<PrepareRestoreActivities & PlaceRestoreActivities>({
    ...toItsEnd,
    summary,
    taskQueue: controlQueue(host),
    startToCloseTimeout: '2 hours', // measuring what chains of many TiB hold
    heartbeatTimeout: '30 seconds', // a worker that dies is noticed within this time
    retry: { maximumAttempts: 10, maximumInterval: '30 seconds' },
  });
}

/** Writing a disk, and reading it back. Each attempt begins with a clean file. */
export function restoreDiskSteps(host: string, summary: string) {
  return proxyActivities<RestoreDiskActivities>({
    ...toItsEnd,
    summary,
    taskQueue: copyQueue(host),
    startToCloseTimeout: '7 days', // the largest disk over the slowest link
    heartbeatTimeout: '30 seconds',
    retry: { initialInterval: '5 seconds', maximumAttempts: 5 }, // what five clean files did not help is no passing trouble
  });
}

/** Looks at the repository before anything is leased: tells an absent host from a slow one. */
export function probeVerificationSteps(host: string) {
  return proxyActivities<Pick<VerifyChainActivities, 'probeVerification'>>(probeOptions(host));
}

/** Reading the files of a chain, and comparing what they hold. Changes none, so it may be tried anew. */
export function verifySteps(host: string, summary: string) {
  return proxyActivities<Pick<VerifyChainActivities, 'verifyChain'>>({
    ...toItsEnd,
    summary,
    taskQueue: copyQueue(host), // reads as much as a copy does
    startToCloseTimeout: '7 days', // the longest chain of the largest disk
    heartbeatTimeout: '30 seconds',
    retry: { maximumAttempts: 10, maximumInterval: '1 minute' },
  });
}

/** Clean-up is tried until it is done, however long the host is away: the ports stay fenced meanwhile. */
export function cleanUpSteps(host: string, summary: string) {
  return proxyActivities<CleanUpActivities & CleanUpLeaseActivities & Pick<ExportActivities, 'stopExport'>>({
    ...cleanUpOptions(host),
    summary,
  });
}

/** The same, given up after a while, so that what waits can be shown. */
export function firstCleanUpSteps(host: string, summary: string) {
  return proxyActivities<CleanUpActivities & CleanUpLeaseActivities>({
    ...cleanUpOptions(host),
    summary,
    scheduleToCloseTimeout: '2 minutes', // a restart of the worker, or of libvirtd, is no news
  });
}

/** Looks at the repository before anything is leased: tells an absent host from a slow one. */
export function probeDeletionSteps(host: string) {
  return proxyActivities<Pick<DeletionActivities, 'probeDeletion'>>(probeOptions(host));
}

/** Up to the tombstones: a look at every file that a merge reads, and one transaction. */
export function beginDeletionSteps(host: string) {
  return proxyActivities<Pick<DeletionActivities, 'beginDeletion'>>({
    ...toItsEnd,
    summary: 'look at the files, and mark what goes',
    taskQueue: controlQueue(host),
    startToCloseTimeout: '1 day', // files that were copied back are read whole
    heartbeatTimeout: '30 seconds',
    retry: { maximumAttempts: 10, maximumInterval: '30 seconds' },
  });
}

/** From the tombstones on: tried until it is done, however long the host or the repository is away. */
export function finishDeletionSteps(host: string, summary: string) {
  return proxyActivities<Pick<DeletionActivities, 'finishDeletion'>>({
    summary,
    taskQueue: copyQueue(host), // a merge writes as much as a copy does
    startToCloseTimeout: '7 days', // merging the largest disks
    heartbeatTimeout: '30 seconds',
    retry: { maximumInterval: '1 minute' },
  });
}

function probeOptions(host: string) {
  return {
    taskQueue: controlQueue(host),
    scheduleToStartTimeout: '2 minutes', // control slots are always free within seconds: nobody is there
    startToCloseTimeout: '5 minutes', // virsh and the repository's file system may be slow, not dead
    heartbeatTimeout: '30 seconds', // a worker that dies is noticed within this time
    retry: { maximumAttempts: 5 },
  } as const;
}

function cleanUpOptions(host: string) {
  return {
    taskQueue: controlQueue(host),
    startToCloseTimeout: '10 minutes', // every export of the job gets its time to end by itself
    heartbeatTimeout: '30 seconds',
    retry: { maximumInterval: '30 seconds' },
  } as const;
}
