// usage: download-temporal.mjs VERSION DIRECTORY
// Puts the Temporal CLI into the directory as `temporal`, by the SDK's own download, which starts it once.
import { readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { TestWorkflowEnvironment } from '@temporalio/testing';

const [version, directory] = process.argv.slice(2);
const environment = await TestWorkflowEnvironment.createLocal({
  server: { executable: { type: 'cached-download', version: `v${version}`, downloadDir: directory } },
});
await environment.teardown();

const downloaded = readdirSync(directory).find((name) => name.startsWith('temporal-'));
if (downloaded === undefined) throw new Error(`Expected the Temporal CLI in ${directory}, found none`);
renameSync(join(directory, downloaded), join(directory, 'temporal'));
