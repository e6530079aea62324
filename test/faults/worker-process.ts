import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Lab } from '../support/lab.js';
import { until } from '../support/until.js';
import type { WorkerBundle } from './bundle.js';
import { pathWithHeldCopies } from './held-copies.js';
import { endOfLateStep, type Death, type KillPoint } from './kill-point.js';
import type { WorkerOrder } from './worker.js';

/** A worker in a process of its own. */
export interface WorkerProcess {
  pid: number;
  /** How it ended: the signal, or the exit code. */
  ended: Promise<string>;
  /** Waits for its death at the kill point, and tells of it. */
  death: () => Promise<Death>;
  /** Waits until it is frozen at the kill point, and tells of it. */
  frozen: () => Promise<Death>;
  /** Lets one that is frozen go on, and waits until the step that it was frozen in has ended. */
  wake: () => Promise<void>;
  kill: () => Promise<string>;
  /** As a deploy does. */
  terminate: () => Promise<string>;
}

/** Starts one, and returns when it is about to poll. It ends with us. */
export async function startWorkerProcess(
  lab: Lab,
  { workflowPath, workerPath }: WorkerBundle,
  killPoints: readonly KillPoint[] = [],
): Promise<WorkerProcess> {
  const { config, temporalAddress, namespace, repository } = lab;
  const deathFile = join(lab.directory, 'death.json');
  const order: WorkerOrder = {
    config: { ...config, logLevel: 'error' }, // servers are stopped, and processes killed, on purpose
    ...{ workflowBundlePath: workflowPath, deathFile, killPoints, repositoryPath: repository.path },
  };
  const env = {
    ...{ ...process.env, PATH: await pathWithHeldCopies(lab.directory), WORKER_ORDER: JSON.stringify(order) },
    ...{ TEMPORAL_ADDRESS: temporalAddress, TEMPORAL_NAMESPACE: namespace, TEMPORAL_CONFIG_FILE: '/nonexistent.toml' },
  };
  const child = fork(workerPath, { env });
  const ended = new Promise<string>((resolve) =>
    child.once('exit', (code, signal) => resolve(signal ?? `exit code ${code}`)),
  );
  const end = (signal: 'SIGKILL' | 'SIGTERM') => {
    child.kill(signal);
    return ended;
  };
  const started = await Promise.race([once(child, 'message').then(() => 'ready'), ended]);
  if (started !== 'ready') throw new Error(`The worker ended before it was ready: ${started}`);
  return {
    pid: child.pid ?? 0,
    ended,
    async death() {
      const how = await ended;
      if (how !== 'SIGKILL') throw new Error(`Expected the worker to be killed at its kill point, found ${how}`);
      const death = JSON.parse(await readFile(deathFile, 'utf8')) as Death;
      await rm(deathFile);
      return death;
    },
    async frozen() {
      await until('the worker to be frozen', () => existsSync(deathFile), 60_000);
      return JSON.parse(await readFile(deathFile, 'utf8')) as Death;
    },
    async wake() {
      child.kill('SIGCONT');
      await until('the step that comes late to end', () => existsSync(endOfLateStep(deathFile)), 60_000);
      await Promise.all([rm(deathFile), rm(endOfLateStep(deathFile))]);
    },
    kill: () => end('SIGKILL'),
    terminate: () => end('SIGTERM'),
  };
}
