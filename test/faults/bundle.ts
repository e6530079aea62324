import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import type { TestProject } from 'vitest/node';
import { bundleWorkflows } from '../support/bundle-workflows.js';

declare module 'vitest' {
  interface ProvidedContext {
    workerBundle: WorkerBundle;
  }
}

/** Everything that a worker loads, made once: workers that are killed and started anew must not each do it. */
export interface WorkerBundle {
  workflowPath: string;
  /** The program of `worker.ts`, with its hasher beside it. */
  workerPath: string;
}

/** Bundles workflow code and worker into a directory of their own, within the project: packages are looked for from there. */
export async function makeBundle(): Promise<WorkerBundle & { remove: () => Promise<void> }> {
  const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  const parent = here('../../node_modules/.cache/');
  await mkdir(parent, { recursive: true });
  const directory = await mkdtemp(join(parent, 'backupvm-bundle-'));
  const workflowPath = await bundleWorkflows(directory);
  await writeFile(join(directory, 'package.json'), '{"type":"module"}');
  await build({
    entryPoints: { worker: here('worker.ts'), hasher: here('../../src/hashes/hasher.ts') },
    ...{ outdir: directory, bundle: true, platform: 'node', format: 'esm', packages: 'external', sourcemap: 'inline' },
  });
  const remove = () => rm(directory, { recursive: true });
  return { workflowPath, workerPath: join(directory, 'worker.js'), remove };
}

/** Vitest's globalSetup. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { remove, ...bundle } = await makeBundle();
  project.provide('workerBundle', bundle);
  return remove;
}
