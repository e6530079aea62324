import { fileURLToPath } from 'node:url';
import { NativeConnection, Worker, type ActivityInterceptorsFactory, type WorkerOptions } from '@temporalio/worker';
import type { Logger } from 'pino';
import { createChainLeaseActivities } from './activities/chain-leases.js';
import { createCleanUpLeaseActivities } from './activities/clean-up-lease.js';
import { createCleanUpActivities } from './activities/clean-up.js';
import { createCompareCopyActivities } from './activities/compare-copy.js';
import { createDeletionPlanActivities } from './activities/deletion-plan.js';
import { createDeletionActivities } from './activities/deletions.js';
import { createExportActivities } from './activities/exports.js';
import { createJobActivities } from './activities/jobs.js';
import { createKeptDiskActivities } from './activities/kept-disks.js';
import { createPlaceRestoreActivities } from './activities/place-restore.js';
import { createPrepareRestoreActivities } from './activities/prepare-restore.js';
import { createForgetActivities } from './activities/forget-change-ids.js';
import { createProbeActivities } from './activities/probe.js';
import { createPruneActivities } from './activities/prune.js';
import { createReconcileActivities, reconcileBeforeStart, type ReconcileDependencies } from './activities/reconcile.js';
import { findOlderRecords } from './activities/repository-epoch.js';
import { createRestoreDiskActivities } from './activities/restore-disk.js';
import { createRestoreLookUpActivities } from './activities/restore-look-up.js';
import { createSealActivities } from './activities/seal.js';
import { createSnapshotActivities } from './activities/snapshots.js';
import { createSurveyActivities } from './activities/survey.js';
import { createTransferActivities } from './activities/transfers.js';
import { translateErrors } from './activities/translate-errors.js';
import { createVerifyChainActivities } from './activities/verify-chain.js';
import { createVerifyPlanActivities } from './activities/verify-plan.js';
import type { Config } from './config/config.js';
import { connectWorker } from './config/temporal.js';
import { openDatabase, describeDatabaseFailure, type Database } from './db/database.js';
import { claimHost, isClaimedElsewhere } from './db/hosts.js';
import { requireMigrated } from './db/migrate.js';
import { listRepositoriesOf } from './db/survey.js';
import { BackupError } from './domain/errors.js';
import { messageOf } from './domain/message-of.js';
import type { Namespace } from './domain/namespace.js';
import { startLog } from './log.js';
import { readMachineId } from './process/machine-id.js';
import { requirePrivateDirectory } from './process/private-directory.js';
import { requireTools } from './process/tools.js';
import { describeExposure } from './repository/exposure.js';
import { createSource } from './sources/connect.js';
import { openInstallation } from './temporal-namespace.js';
import { describeRun, findActivePoller, knowsSearchAttributes } from './temporal-server.js';
import { watchInstallation } from './worker-watch.js';
import { controlQueue, copyQueue, mainQueue } from './workflows/messages.js';

/** `workflows`: the procedure and the database steps, on any machine. `host`: copies and short steps of this machine. */
export type WorkerRole = 'workflows' | 'host';

/** Short steps at a time. Enough that a probe or a clean-up never waits, whatever the copies do. */
const controlSlots = 20;

export interface RunOptions extends WorkerSeams {
  only?: WorkerRole;
  /** This machine replaces the one that had the host's name. */
  takeOver?: boolean;
  signal: AbortSignal;
  /** Called when the workers begin to poll. */
  onStarted?: () => void;
}

/** What a test puts into a worker from outside. */
export interface WorkerSeams {
  /** Around every activity, outside of our own. */
  activityInterceptors?: ActivityInterceptorsFactory[];
  /** Workflow code that was bundled before. Default: what the build made, or else it is bundled now. */
  workflowBundle?: { codePath: string };
}

/**
 * Runs the workers of this process until the signal is aborted: then copies stop, and start over from a clean file where a
 * worker takes them up again.
 * @throws BackupError when the configuration, the database, the tools or the Temporal server are not fit for it
 */
export async function runWorker(config: Config, options: RunOptions): Promise<void> {
  const { only } = options;
  const log = startLog(config.logLevel);
  if (only !== 'workflows') await requireTools();
  const database = openDatabase(config.database.pool, (error) =>
    log.warn({ error: error.message }, 'a database connection broke'),
  );
  try {
    await requireMigrated(database.pool).catch((error: unknown) => {
      throw describeDatabaseFailure(error, config.database.address) ?? error;
    });
    const { connection, ...where } = await connectWorker((found) => NativeConnection.connect(found));
    try {
      const namespace = await openInstallation(database.db, connection, {
        name: where.namespace,
        address: where.address,
      });
      const connections = { ...options, db: database.db, connection, namespace };
      if (only !== 'workflows') await prepareHost(config, connections, log, options);
      const workers = await createWorkers(config, connections);
      await runUntil(workers, connections, { config, log, ...options });
    } finally {
      await connection.close();
    }
  } finally {
    await database.close();
  }
}

/** Before the first poll: the host is this machine's, and what its runs left behind has been cleaned up as far as it can be. */
async function prepareHost(
  config: Config,
  connections: WorkerConnections,
  log: Logger,
  { takeOver = false, signal }: Pick<RunOptions, 'takeOver' | 'signal'>,
): Promise<void> {
  await requirePrivateDirectory(config.runDir);
  const dependencies = hostDependencies(config, connections);
  const { db, host, machineId } = dependencies;
  const claim = { host, machineId };
  if (takeOver && (await isClaimedElsewhere(db, claim))) await requireNoWorker(connections, host, signal);
  const left = await claimHost(db, claim, { takeOver });
  if (left)
    log.warn({ host, machineId, left }, 'took over the host; what still runs on the other machine is not stopped');
  for (const { message } of await findOlderRecords(db, host))
    log.warn({ host, error: message }, 'found an older database');
  await warnOfOpenRepositories(db, host, log);
  await reconcileBeforeStart(dependencies, signal, (orphan, error) => {
    if (orphan.leftBecause !== undefined) log.warn(orphan, 'left alone what a run did not clean up');
    else if (error === undefined) log.info(orphan, 'cleaned up after a run that had ended');
    else log.warn({ ...orphan, error: messageOf(error) }, 'could not clean up yet; the reconcile schedule tries again');
  });
}

/** What other users of this host could read: repositories are made by people, and those of earlier versions were open. */
async function warnOfOpenRepositories(db: Database, host: string, log: Logger): Promise<void> {
  for (const { name, path } of await listRepositoriesOf(db, host)) {
    const exposure = await describeExposure(path).catch(() => null); // a backup says what else is wrong with it
    if (exposure !== null) log.warn({ repository: name, exposure }, 'other users can reach a repository');
  }
}

/** A machine that is said to be gone has no worker. Takes longer than a minute. @throws BackupError WrongHost */
async function requireNoWorker(
  { connection, namespace }: WorkerConnections,
  host: string,
  signal: AbortSignal,
): Promise<void> {
  const poller = await findActivePoller(connection, namespace.name, controlQueue(host), signal);
  if (poller === undefined) return;
  throw new BackupError(
    'WrongHost',
    `cannot take over host '${host}': worker '${poller}' still asks for its work; stop that worker, then try again`,
  );
}

/** Runs the workers until the signal is aborted, or until one of them, or the watch over the installation, fails. */
async function runUntil(
  workers: readonly Worker[],
  { db, connection, namespace, only }: WorkerConnections,
  { config, log, signal, onStarted }: { config: Config; log: Logger } & Pick<RunOptions, 'signal' | 'onStarted'>,
): Promise<void> {
  const failed = new AbortController();
  const ending = AbortSignal.any([signal, failed.signal]);
  const shutDown = () => {
    for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown();
  };
  ending.addEventListener('abort', shutDown, { once: true });
  const runs = workers.map((worker) => worker.run());
  const queues = workers.map(({ options }) => options.taskQueue);
  log.info({ host: config.host, queues, namespace: namespace.name, namespaceId: namespace.id }, 'worker started');
  onStarted?.();
  if (ending.aborted) shutDown();
  const host = only === 'workflows' ? undefined : config.host;
  const watch = watchInstallation({ db, connection, namespace, host }, config, { log, signal: ending });
  // One that ends takes the others with it, and all are waited for: they use the same connections.
  const ends = await Promise.allSettled([...runs, watch].map((end) => end.finally(() => failed.abort())));
  const failure = ends.find((end) => end.status === 'rejected');
  if (failure) throw failure.reason;
  log.info({ host: config.host }, 'worker stopped');
}

export interface WorkerConnections extends WorkerSeams {
  db: Database;
  connection: NativeConnection;
  /** The one that this database belongs to. */
  namespace: Namespace;
  only?: WorkerRole | undefined;
}

/** Makes the workers of this process, without running them: one per task queue. */
export async function createWorkers(
  config: Config,
  { db, connection, namespace, only, activityInterceptors = [], workflowBundle }: WorkerConnections,
): Promise<Worker[]> {
  const workflowOptions = workflowBundle ? { workflowBundle } : workflowCode();
  const common = {
    connection,
    namespace: namespace.name,
    identity: `backupvm@${config.host}`,
    // A deploy must not wait for copies of hours: they are told to stop after 5 s, and 60 s is ample for them to do so.
    shutdownGraceTime: '5 seconds',
    shutdownForceTime: '60 seconds',
    maxHeartbeatThrottleInterval: '2 seconds', // a cancellation arrives, and progress shows, within this time
    interceptors: {
      activity: [...activityInterceptors, () => ({ inbound: translateErrors(config.database.address) })],
    },
  } satisfies Partial<WorkerOptions>;
  const workers: Worker[] = [];
  if (only !== 'host') {
    const hasSearchAttributes = () => knowsSearchAttributes(connection, namespace.name);
    const activities = {
      ...createJobActivities({ db, namespace, hasSearchAttributes }),
      ...createChainLeaseActivities({ db, namespace }),
      ...createRestoreLookUpActivities({ db }),
      ...createDeletionPlanActivities({ db }),
      ...createPruneActivities({ db }),
      ...createVerifyPlanActivities({ db }),
    };
    workers.push(await Worker.create({ ...common, ...workflowOptions, taskQueue: mainQueue, activities }));
  }
  if (only !== 'workflows') {
    const { host, copySlots } = config;
    const dependencies = hostDependencies(config, { db, connection, namespace });
    workers.push(
      await Worker.create({
        ...common,
        taskQueue: controlQueue(host),
        maxConcurrentActivityTaskExecutions: controlSlots,
        activities: controlActivities(dependencies),
      }),
      await Worker.create({
        ...common,
        taskQueue: copyQueue(host),
        maxConcurrentActivityTaskExecutions: copySlots,
        activities: copyActivities(dependencies),
      }),
    );
  }
  return workers;
}

/** The short steps of a host, which never wait behind copies. */
function controlActivities(dependencies: ReconcileDependencies) {
  return {
    ...createProbeActivities(dependencies),
    ...createForgetActivities(dependencies),
    ...createSnapshotActivities(dependencies),
    ...createExportActivities(dependencies),
    ...createCleanUpActivities(dependencies),
    ...createCleanUpLeaseActivities(dependencies),
    ...createDeletionActivities(dependencies),
    ...createPrepareRestoreActivities(dependencies),
    ...createPlaceRestoreActivities(dependencies),
    ...createReconcileActivities(dependencies),
    ...createSurveyActivities(dependencies),
    ...createKeptDiskActivities(dependencies),
    ...createVerifyChainActivities(dependencies),
  };
}

/** Steps that take as long as the host's disks need. */
function copyActivities(dependencies: ReconcileDependencies) {
  return {
    ...createTransferActivities(dependencies),
    ...createCompareCopyActivities(dependencies),
    ...createSealActivities(dependencies),
    ...createRestoreDiskActivities(dependencies),
    ...createVerifyChainActivities(dependencies),
    ...createDeletionActivities(dependencies),
  };
}

/** What the activities of this host are made with, by the worker and by its look before it polls. */
export function hostDependencies(
  { host, nbdPorts, runDir, scratchDir, restoreDirs, stallTimeoutMs }: Config,
  { db, connection, namespace }: WorkerConnections,
): ReconcileDependencies {
  return {
    db,
    host,
    machineId: readMachineId(),
    nbdPorts,
    runDir,
    scratchDir,
    restoreDirs,
    stallTimeoutMs,
    createSource: (hypervisor) => createSource(hypervisor, scratchDir),
    namespace,
    describeRun: (workflowId, runId) => describeRun(connection, { db, namespace }, workflowId, runId),
  };
}

/** The bundle that the build made; from source, the SDK bundles anew at each start. */
function workflowCode(): Pick<WorkerOptions, 'workflowsPath' | 'workflowBundle'> {
  return import.meta.url.endsWith('.ts')
    ? { workflowsPath: fileURLToPath(new URL('./workflows/index.ts', import.meta.url)) }
    : { workflowBundle: { codePath: fileURLToPath(new URL('./workflow-bundle.js', import.meta.url)) } };
}
