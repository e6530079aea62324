import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import type { Plugin } from 'vitest/config';

/**
 * Lets tests run the hasher as the build makes it. From source it takes longer to load than to hash, in each of the thousands of
 * times that the tests start it.
 */
export function builtHasher(): Plugin {
  // Within the project: packages are looked for from there. Of this process: others may test another state of the code.
  const cache = fileURLToPath(new URL('../../node_modules/.cache/', import.meta.url));
  const directory = join(cache, `backupvm-hasher-${process.pid}`);
  const hasher = fileURLToPath(new URL('../../src/hashes/hasher.ts', import.meta.url));
  const besideHasher = JSON.stringify(pathToFileURL(join(directory, 'hash-disk.js')).href);
  return {
    name: 'built-hasher',
    async configResolved() {
      const options = { bundle: true, platform: 'node', format: 'esm', packages: 'external' } as const;
      process.once('exit', () => rmSync(directory, { recursive: true, force: true }));
      await build({ entryPoints: { hasher }, outdir: directory, ...options });
    },
    transform(code, id) {
      return id.endsWith('/src/hashes/hash-disk.ts') ? code.replaceAll('import.meta.url', besideHasher) : undefined;
    },
  };
}
