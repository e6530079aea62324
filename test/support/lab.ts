import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { Client, Connection, type WorkflowHandleWithFirstExecutionRunId } from '@temporalio/client';
import { systemUri } from '../../demo/libvirtd.js';
import type { Config } from '../../src/config/config.js';
import { addHypervisor } from '../../src/db/hypervisors.js';
import { addRepository } from '../../src/db/repositories.js';
import type { BackupVMRequest } from '../../src/domain/backup-input.js';
import type { BackupVMResult } from '../../src/domain/result.js';
import { createMarker } from '../../src/repository/marker.js';
import { mainQueue, searchAttributes } from '../../src/workflows/messages.js';
import { freePorts } from './ports.js';
import { startStorageDaemon, type StorageDaemon, type StorageDaemonOptions } from './storage-daemon.js';
import { copyDatabase, type TestDatabase } from './template-database.js';

export interface Servers {
  /** Of a migrated database that others are copied from. */
  templateDatabaseUrl: string;
  temporalAddress: string;
}

export type BackupHandle = WorkflowHandleWithFirstExecutionRunId<() => Promise<BackupVMResult>>;

/** Everything that backups need except workers: a namespace, a database, a repository and a hypervisor of its own. */
export interface Lab {
  /** A directory of this lab's own, which goes with it. */
  directory: string;
  config: Config;
  database: TestDatabase;
  temporalAddress: string;
  client: Client;
  namespace: string;
  repository: { id: string; path: string };
  /** Starts a VM without guest on the lab's QMP hypervisor; it stops with the lab. */
  startVM: (name: string, disks: StorageDaemonOptions['disks']) => Promise<StorageDaemon>;
  start: (
    input: BackupVMRequest,
    workflowId?: string,
    options?: { workflowExecutionTimeout?: '20s' },
  ) => Promise<BackupHandle>;
  backUp: (input: BackupVMRequest, workflowId?: string) => Promise<BackupVMResult>;
  /** From now on this server and namespace are asked. */
  useTemporal: (temporalAddress: string, namespace: string) => Promise<void>;
  close: () => Promise<void>;
}

export interface LabOptions {
  /** What its one hypervisor is: a folder of QMP sockets, or the system's libvirt. */
  hypervisor?: 'qmp' | 'libvirt';
  /** How many ports its host may lease. */
  ports?: number;
  /** Without, the server does not know our search attributes. */
  withSearchAttributes?: boolean;
  /** Makes the repository's directory below the lab's; default: a plain one. */
  makeRepository?: (directory: string) => Promise<string>;
  /** Makes the scratch directory below the lab's; default: one that the product makes. */
  makeScratch?: (directory: string) => Promise<string>;
  stallTimeoutMs?: number;
  /** How often its host cleans up after runs that could not. Default: as the product. */
  reconcileIntervalMs?: number;
}

/** Makes a lab on servers that run. The caller closes it, after its workers. */
export async function createLab(purpose: string, servers: Servers, options: LabOptions = {}): Promise<Lab> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-world-'));
  await chmod(directory, 0o755); // guests run as a user of their own
  const database = await copyDatabase(servers.templateDatabaseUrl, purpose);
  const { temporalAddress } = servers;
  const namespace = await createNamespace(temporalAddress, options.withSearchAttributes ?? true);
  const config = await makeConfig(directory, database, options);
  const path = await (options.makeRepository ?? makePlainRepository)(directory);
  const { id } = await createMarker(path, 'store');
  await addRepository(database.db, { id, name: 'store', host: config.host, path });
  const kind = options.hypervisor ?? 'qmp';
  const uri = kind === 'qmp' ? `qmp://${await makeMachines(directory)}` : systemUri;
  await addHypervisor(database.db, { name: 'lab', kind, uri, host: config.host });
  return openLab({ directory, config, database, temporalAddress, namespace, repository: { id, path } });
}

/** The folder of the lab's VMs. Safe to repeat. */
export async function makeMachines(directory: string): Promise<string> {
  const machines = join(directory, 'machines');
  await mkdir(machines, { recursive: true });
  return machines;
}

/** A lab of parts that are there. */
export async function openLab(
  parts: Pick<Lab, 'directory' | 'config' | 'database' | 'temporalAddress' | 'namespace' | 'repository'>,
): Promise<Lab> {
  const { directory, database } = parts;
  let connection = await Connection.connect({ address: parts.temporalAddress });
  const machines = await makeMachines(directory);
  const daemons: StorageDaemon[] = [];
  const lab: Lab = {
    ...parts,
    client: new Client({ connection, namespace: parts.namespace }),
    async startVM(name, disks) {
      const daemon = await startStorageDaemon({ directory: machines, name, disks });
      daemons.push(daemon);
      return daemon;
    },
    start: (input, workflowId = `backup-vm/${input.vm}`, more = {}) =>
      lab.client.workflow.start<(input: BackupVMRequest) => Promise<BackupVMResult>>('BackupVM', {
        taskQueue: mainQueue,
        workflowId,
        args: [input],
        ...more,
      }),
    backUp: async (input, workflowId) => (await lab.start(input, workflowId)).result(),
    async useTemporal(temporalAddress, namespace) {
      await connection.close();
      connection = await Connection.connect({ address: temporalAddress });
      Object.assign(lab, { temporalAddress, namespace, client: new Client({ connection, namespace }) });
    },
    async close() {
      await deleteSchedules(lab.client).catch(() => undefined); // a server that is gone runs nothing
      await connection.close();
      await Promise.all(daemons.map((daemon) => daemon.stop()));
      await database.drop();
      await rm(directory, { recursive: true });
    },
  };
  return lab;
}

/** What the workers made in our namespace: nothing of it may run on, since the server is shared. */
async function deleteSchedules(client: Client): Promise<void> {
  for await (const { scheduleId } of client.schedule.list()) await client.schedule.getHandle(scheduleId).delete();
}

async function makePlainRepository(directory: string): Promise<string> {
  const path = join(directory, 'repository');
  await mkdir(path, { mode: 0o700 });
  return path;
}

async function makeConfig(directory: string, database: TestDatabase, options: LabOptions): Promise<Config> {
  const { first, last } = await freePorts(options.ports ?? 16);
  return {
    host: 'test-host',
    database: { pool: { connectionString: database.url }, address: new URL(database.url).host },
    nbdPorts: { first, last },
    scratchDir: (await options.makeScratch?.(directory)) ?? join(directory, 'scratch'),
    runDir: join(directory, 'run'),
    restoreDirs: [join(directory, 'restores')],
    stallTimeoutMs: options.stallTimeoutMs ?? 600_000,
    copySlots: 4,
    reconcileIntervalMs: options.reconcileIntervalMs ?? 300_000,
    logLevel: 'warn',
  };
}

/** A namespace of its own: the main task queue has one name, and another file's worker must not take this file's tasks. */
export async function createNamespace(address: string, withSearchAttributes: boolean): Promise<string> {
  const namespace = `test-${randomBytes(6).toString('hex')}`;
  const connection = await Connection.connect({ address });
  try {
    const retention = { seconds: 86_400 as unknown as Long };
    await connection.workflowService.registerNamespace({ namespace, workflowExecutionRetentionPeriod: retention });
    if (withSearchAttributes) {
      const keyword = 2; // IndexedValueType KEYWORD
      const types = Object.fromEntries(Object.values(searchAttributes).map(({ name }) => [name, keyword]));
      await untilAccepted(() => connection.operatorService.addSearchAttributes({ namespace, searchAttributes: types }));
    }
    // The server's caches learn of a new namespace a moment later.
    await untilAccepted(() =>
      connection.workflowService.describeTaskQueue({ namespace, taskQueue: { name: mainQueue } }),
    );
    return namespace;
  } finally {
    await connection.close();
  }
}

type Long = NonNullable<
  NonNullable<
    Parameters<Connection['workflowService']['registerNamespace']>[0]['workflowExecutionRetentionPeriod']
  >['seconds']
>;

async function untilAccepted(call: () => Promise<unknown>): Promise<void> {
  const deadline = Date.now() + 30_000;
  for (;;) {
    try {
      await call();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await wait(100);
    }
  }
}
