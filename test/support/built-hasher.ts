import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Plugin } from 'vitest/config';
import { bundleModules } from './bundle-modules.js';

/**
 * Lets tests run the hasher as the build makes it. From source it takes longer to load than to hash, in each of the thousands of
 * times that the tests start it.
 */
export function builtHasher(): Plugin {
  return {
    name: 'built-hasher',
    async transform(code, id) {
      if (!id.endsWith('/src/hashes/hash-disk.ts')) return undefined;
      const hasher = fileURLToPath(new URL('../../src/hashes/hasher.ts', import.meta.url));
      const directory = await bundleModules({ hasher });
      process.once('exit', () => rmSync(directory, { recursive: true, force: true }));
      const besideHasher = pathToFileURL(join(directory, 'hash-disk.js')).href;
      return code.replaceAll('import.meta.url', JSON.stringify(besideHasher));
    },
  };
}
