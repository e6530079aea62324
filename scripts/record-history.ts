import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Client } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { connectClient } from '../src/config/temporal.js';

// usage: tsx scripts/record-history.ts CASE WORKFLOW_ID [RUN_ID]
// Writes the history of a run on the server in TEMPORAL_ADDRESS to test/histories/<type>/<case>.json.

const checkout = fileURLToPath(new URL('..', import.meta.url));
const histories = join(checkout, 'test', 'histories');
/** Far more than ids, counts and the description of a VM need: what is larger does not belong into a history. */
const largestPayloadBytes = 32 * 1024;

/**
 * Writes a run's history, and returns the file's path. A file that is there already stays: runs of the code that
 * made it may still be under way.
 */
export async function recordHistory(
  client: Client,
  { workflowId, runId }: { workflowId: string; runId?: string | undefined },
  caseName: string,
): Promise<string> {
  const handle = client.workflow.getHandle(workflowId, runId);
  const { type } = await handle.describe();
  // Stack traces tell where somebody's checkout lies; nothing else is changed.
  const json = historyToJSON(await handle.fetchHistory()).replaceAll(checkout, '/backupvm/');
  requireSmallPayloads(JSON.parse(json), `${type} ${workflowId}`);
  const file = join(histories, type, `${caseName}.json`);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, `${json}\n`, { flag: 'wx' });
  return file;
}

function requireSmallPayloads(value: unknown, run: string): void {
  if (typeof value !== 'object' || value === null) return;
  const { metadata, data } = value as { metadata?: unknown; data?: unknown };
  if (typeof data === 'string' && metadata !== undefined) {
    const bytes = Buffer.byteLength(data, 'base64');
    if (bytes > largestPayloadBytes) {
      throw new Error(
        `Expected payloads of at most ${largestPayloadBytes} bytes in the history of ${run}, found ${bytes}`,
      );
    }
    return;
  }
  for (const child of Object.values(value)) requireSmallPayloads(child, run);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [caseName, workflowId, runId] = process.argv.slice(2);
  if (caseName === undefined || workflowId === undefined) {
    console.error('usage: tsx scripts/record-history.ts CASE WORKFLOW_ID [RUN_ID]');
    process.exit(2);
  }
  const { client, connection } = await connectClient();
  try {
    console.log(await recordHistory(client, { workflowId, runId }, caseName));
  } finally {
    await connection.close();
  }
}
