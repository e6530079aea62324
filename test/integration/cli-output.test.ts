import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect } from 'vitest';
import { hypervisors } from '../../src/db/schema.js';
import { test } from '../support/database.js';

test('a list that is larger than a pipe arrives whole, however late it is read', async ({ database }) => {
  const rows = Array.from({ length: 3_000 }, (_, index) => {
    return {
      name: `hypervisor-${index}`,
      kind: 'qmp',
      uri: `qmp:///run/${index}/${'x'.repeat(100)}`,
      host: 'h',
    } as const;
  });
  await database.db.insert(hypervisors).values(rows);
  const env = { ...process.env, DATABASE_URL: database.url, BACKUPVM_HOST: 'h' };
  const command = '"$NODE" --import tsx src/cli/main.ts hypervisor list --json | cat';
  const child = spawn('sh', ['-c', command], {
    env: { ...env, NODE: process.execPath },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let printed = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text));
  await once(child, 'close');
  expect(printed.length).toBeGreaterThan(400_000);
  expect((JSON.parse(printed) as { hypervisors: unknown[] }).hypervisors).toHaveLength(rows.length);
});
