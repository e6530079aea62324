import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

/** Bundles modules into a directory of their own, within the project: packages are looked for from there. @returns the directory */
export async function bundleModules(entryPoints: Record<string, string>): Promise<string> {
  const parent = fileURLToPath(new URL('../../node_modules/.cache/', import.meta.url));
  await mkdir(parent, { recursive: true });
  const directory = await mkdtemp(join(parent, 'backupvm-bundle-'));
  await writeFile(join(directory, 'package.json'), '{"type":"module"}');
  await build({
    entryPoints,
    ...{ outdir: directory, bundle: true, platform: 'node', format: 'esm', packages: 'external' },
  });
  return directory;
}
