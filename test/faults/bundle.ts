import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext {
    /** The workflow code, bundled once: workers that are killed and started anew must not each do it. */
    workflowBundlePath: string;
  }
}

/** Bundles the workflow code into a directory of its own. */
export async function makeBundle(): Promise<{ codePath: string; remove: () => Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-bundle-'));
  const codePath = join(directory, 'workflow-bundle.js');
  const workflowsPath = fileURLToPath(new URL('../../src/workflows/index.ts', import.meta.url));
  const { code } = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('WARN') });
  await writeFile(codePath, code);
  return { codePath, remove: () => rm(directory, { recursive: true }) };
}

/** Vitest's globalSetup. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const { codePath, remove } = await makeBundle();
  project.provide('workflowBundlePath', codePath);
  return remove;
}
