import type { Config } from '../../src/config/config.js';
import { runWorker } from '../../src/worker.js';
import { killAt, type KillPoint } from './kill-point.js';

/** What a worker of the fault tests is told, as JSON in its environment. The rest is in TEMPORAL_*, as for any worker. */
export interface WorkerOrder {
  config: Config;
  workflowBundlePath: string;
  repositoryPath: string;
  deathFile: string;
  killPoints: readonly KillPoint[];
}

// A process of its own, so that it can be killed: the product's worker, with kill points at most.
const order = JSON.parse(process.env['WORKER_ORDER'] ?? '') as WorkerOrder;
const { config, killPoints } = order;
const places = { scratchDir: config.scratchDir, runDir: config.runDir, repositoryPath: order.repositoryPath };
const stop = new AbortController();
process.on('SIGTERM', () => stop.abort()); // not `once`: execa ends the process when it finds no other listener
process.once('disconnect', () => process.kill(process.pid, 'SIGKILL')); // the test is gone
await runWorker(config, {
  signal: stop.signal,
  workflowBundle: { codePath: order.workflowBundlePath },
  activityInterceptors: killPoints.length > 0 ? [killAt(killPoints, places, order.deathFile)] : [],
  onStarted: () => process.send?.('ready'),
});
process.exit();
