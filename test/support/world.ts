import { NativeConnection, type ActivityInterceptorsFactory, type Worker } from '@temporalio/worker';
import { inject } from 'vitest';
import { openInstallation } from '../../src/temporal-namespace.js';
import { createWorkers } from '../../src/worker.js';
import { createLab, type Lab, type LabOptions } from './lab.js';

/** Everything that backups need, for one test file: a lab, and workers in this process. */
export type World = Lab;
export interface WorldOptions extends LabOptions {
  /** Of its workers: what happens to activities from outside. */
  activityInterceptors?: ActivityInterceptorsFactory[];
}

export async function createWorld(purpose: string, options: WorldOptions = {}): Promise<World> {
  const temporalAddress = inject('temporalAddress');
  const lab = await createLab(
    purpose,
    { templateDatabaseUrl: inject('templateDatabaseUrl'), temporalAddress },
    options,
  );
  const connection = await NativeConnection.connect({ address: temporalAddress });
  const { db } = lab.database;
  const namespace = await openInstallation(db, connection, { name: lab.namespace, address: temporalAddress });
  const workers = await createWorkers(lab.config, {
    ...{ db, connection, namespace },
    workflowBundle: { codePath: inject('workflowBundlePath') },
    activityInterceptors: options.activityInterceptors ?? [],
  });
  const running = Promise.all(workers.map((worker) => worker.run()));
  return {
    ...lab,
    async close() {
      await stopWorkers(workers, running);
      await connection.close();
      await lab.close();
    },
  };
}

async function stopWorkers(workers: readonly Worker[], running: Promise<unknown>): Promise<void> {
  for (const worker of workers) worker.shutdown();
  await running;
}
