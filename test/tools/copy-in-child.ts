import { copyExtents } from '../../src/nbd/nbdcopy.js';

/** A worker that copies, and prints the copy's identity and progress; the test kills it. */
const [sourceUri = '', targetUri = '', directory = '', length = ''] = process.argv.slice(2);
await copyExtents({
  sourceUri,
  targetUri,
  extents: [{ offset: 0, length: Number(length) }],
  directory,
  onStart: async (identity) => void process.stdout.write(`${JSON.stringify(identity)}\n`),
  onProgress: (fraction) => process.stdout.write(`${fraction}\n`),
  signal: new AbortController().signal,
});
