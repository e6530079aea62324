import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inject } from 'vitest';
import { startTemporalServer } from '../../src/embedded/temporal.js';
import type { Servers } from '../support/lab.js';
import { freePorts } from '../support/ports.js';

/** A server that can be stopped and started again, at the same address. */
export interface Stoppable {
  stop: () => Promise<void>;
  start: () => Promise<void>;
}

/** One that can also be replaced by a fresh server, which has a namespace of this name and nothing else. */
export interface OwnTemporal extends Stoppable {
  startFresh: (namespace: string) => Promise<void>;
}

export async function inDirectory(work: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-servers-'));
  await chmod(directory, 0o755); // Postgres runs as another user when we are root
  try {
    await work(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

/** A Temporal server of this row's own, on a port that stays, with its history in a file. */
export async function withTemporal(work: (servers: Servers, temporal: OwnTemporal) => Promise<void>): Promise<void> {
  await inDirectory(async (directory) => {
    const { first: port, last: uiPort } = await freePorts(2);
    const cliPath = inject('temporalCLIPath');
    const begin = (file = 'temporal.db', namespace = 'default') =>
      startTemporalServer({
        ...{ cliPath, port, uiPort, namespace, searchAttributes: {} },
        dbFilename: join(directory, file),
      });
    let running = await begin();
    try {
      const servers = { templateDatabaseUrl: inject('templateDatabaseUrl'), temporalAddress: running.address };
      await work(servers, {
        stop: () => running.stop(),
        start: async () => void (running = await begin()),
        startFresh: async (namespace) => void (running = await begin('fresh.db', namespace)),
      });
    } finally {
      await running.stop();
    }
  });
}
