import { DefaultLogger, makeTelemetryFilterString, NativeConnection, Runtime } from '@temporalio/worker';
import { reconcileBeforeStart } from '../../src/activities/reconcile.js';
import type { Config } from '../../src/config/config.js';
import { openDatabase } from '../../src/db/database.js';
import { createWorkers, hostDependencies, type WorkerConnections } from '../../src/worker.js';
import { killAt, type KillPoint } from './kill-point.js';

/** What a worker of the fault tests is told, as JSON in its environment. */
export interface WorkerOrder {
  config: Config;
  temporalAddress: string;
  namespace: string;
  workflowBundlePath: string;
  repositoryPath: string;
  deathFile: string;
  killPoints: readonly KillPoint[];
}

// A process of its own, so that it can be killed: as src/worker.ts, with kill points at most.
const order = JSON.parse(process.env['WORKER_ORDER'] ?? '') as WorkerOrder;
const { config, namespace, killPoints } = order;
Runtime.install({
  logger: new DefaultLogger('ERROR'),
  workerHeartbeatInterval: 0,
  shutdownSignals: [],
  telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'ERROR', other: 'ERROR' }) } },
});
const database = openDatabase(config.database.pool, () => undefined); // servers are stopped on purpose
const connection = await NativeConnection.connect({ address: order.temporalAddress });
const places = { scratchDir: config.scratchDir, runDir: config.runDir, repositoryPath: order.repositoryPath };
const connections: WorkerConnections = {
  db: database.db,
  connection,
  namespace,
  workflowBundle: { codePath: order.workflowBundlePath },
  activityInterceptors: killPoints.length > 0 ? [killAt(killPoints, places, order.deathFile)] : [],
};
await reconcileBeforeStart(hostDependencies(config, connections), AbortSignal.timeout(300_000), () => undefined);
const workers = await createWorkers(config, connections);
// Not `once`: execa ends the process when it finds no other listener.
process.on('SIGTERM', () => {
  for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown();
});
process.once('disconnect', () => process.kill(process.pid, 'SIGKILL')); // the test is gone
process.send?.('ready');
await Promise.all(workers.map((worker) => worker.run()));
await connection.close();
await database.close();
process.exit();
