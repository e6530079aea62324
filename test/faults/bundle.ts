import { rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TestProject } from 'vitest/node';
import { bundleModules } from '../support/bundle-modules.js';

declare module 'vitest' {
  interface ProvidedContext {
    workerPath: string;
  }
}

/** Everything that a worker loads, made once: workers that are killed and started anew must not each do it. */
export interface WorkerBundle {
  workflowPath: string;
  /** The program of `worker.ts`, with its hasher beside it. */
  workerPath: string;
}

export async function bundleWorker(): Promise<{ workerPath: string; remove: () => Promise<void> }> {
  const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  const directory = await bundleModules({
    'dist/faults/worker': here('worker.ts'),
    'dist/faults/hasher': here('../../src/hashes/hasher.ts'),
  });
  await symlink(here('../../drizzle'), join(directory, 'drizzle')); // two folders up, as in what is shipped
  return { workerPath: join(directory, 'dist/faults/worker.js'), remove: () => rm(directory, { recursive: true }) };
}

/** Vitest's globalSetup. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { remove, workerPath } = await bundleWorker();
  project.provide('workerPath', workerPath);
  return remove;
}
