import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Connection } from '@temporalio/client';
import { execa } from 'execa';
import { describe, expect, inject } from 'vitest';
import { stopExportProcess } from '../../src/activities/export-process.js';
import { findOrCreateContext } from '../../src/db/contexts.js';
import type { Database } from '../../src/db/database.js';
import { planDisks, recordAttempt } from '../../src/db/disks.js';
import { leasePort, recordProcess, type NbdExport } from '../../src/db/exports.js';
import { claimHost, requireClaim } from '../../src/db/hosts.js';
import { addHypervisor } from '../../src/db/hypervisors.js';
import { findJob } from '../../src/db/jobs.js';
import { addRepository, listRepositories } from '../../src/db/repositories.js';
import { listLeases } from '../../src/db/survey.js';
import type { Namespace } from '../../src/domain/namespace.js';
import { identify, isAlive } from '../../src/process/identity.js';
import { readMachineId } from '../../src/process/machine-id.js';
import { createMarker } from '../../src/repository/marker.js';
import { openInstallation } from '../../src/temporal-namespace.js';
import { startJob } from '../support/job.js';
import { test as base, type TestDatabase } from '../support/database.js';
import { until } from '../support/until.js';
import { runCommand } from '../unit/cli/run-command.js';

const test = base.extend<{ directory: string }>({
  directory: async ({ task }, use) => {
    const path = await mkdtemp(join(tmpdir(), `backupvm-hosts-${task.id}-`));
    await use(path);
    await rm(path, { recursive: true });
  },
});

const [here, there] = ['a'.repeat(32), 'b'.repeat(32)];
const anError = (code: string, ...parts: string[]): object =>
  expect.objectContaining({ code, message: expect.stringMatching(parts.join('.*')) as string }) as object;

describe('a host', () => {
  test('is claimed by the first machine, again by the same one, and by no other', async ({ db }) => {
    expect(await claimHost(db, { host: 'kvm1', machineId: here })).toBeUndefined();
    expect(await claimHost(db, { host: 'kvm1', machineId: here })).toBeUndefined();
    expect(await claimHost(db, { host: 'kvm2', machineId: there })).toBeUndefined();
    await expect(claimHost(db, { host: 'kvm1', machineId: there })).rejects.toEqual(
      anError('WrongHost', "'kvm1' to be this machine", there, here, 'since 20', 'BACKUPVM_HOST', '--take-over'),
    );
    await requireClaim(db, { host: 'kvm1', machineId: here });
    await expect(requireClaim(db, { host: 'kvm1', machineId: there })).rejects.toEqual(anError('WrongHost'));
    await requireClaim(db, { host: 'nobody claimed this one', machineId: there });
  });

  test('that twenty machines claim at once has one owner, and the others know it', async ({ db }) => {
    const machines = Array.from({ length: 20 }, () => randomUUID().replaceAll('-', ''));
    const claims = await Promise.allSettled(machines.map((machineId) => claimHost(db, { host: 'kvm1', machineId })));
    const winner = machines[claims.findIndex(({ status }) => status === 'fulfilled')];
    const refused = claims.flatMap((claim) => (claim.status === 'rejected' ? [claim.reason as unknown] : []));
    expect(refused).toHaveLength(19);
    for (const error of refused) expect(error).toEqual(anError('WrongHost', `is machine ${winner}`));
  });

  test('taken over is the new machine’s, and the old one is refused from then on', async ({ db }) => {
    await claimHost(db, { host: 'kvm1', machineId: here });
    const left = await claimHost(db, { host: 'kvm1', machineId: there }, { takeOver: true });
    expect(left).toEqual({ machineId: here, claimedAt: expect.any(Date) as Date, leasedPorts: 0 });
    expect(await claimHost(db, { host: 'kvm1', machineId: there }, { takeOver: true })).toBeUndefined();
    await expect(claimHost(db, { host: 'kvm1', machineId: here })).rejects.toEqual(anError('WrongHost'));
  });
});

test('a lease is not taken for dead by a machine that is not the host', async ({ db }) => {
  const child = spawn('sleep', ['600']);
  try {
    const identity = await until('the process', () => identify(child.pid ?? 0));
    const lease: NbdExport = {
      ...{ host: 'kvm1', port: 10_809, jobId: randomUUID(), diskId: randomUUID(), exportName: 'x', pidFile: null },
      ...{ ...identity, copyPid: null, copyStartTime: null, copyBootId: null, acquiredAt: new Date() },
    };
    await claimHost(db, { host: 'kvm1', machineId: here });
    const elsewhere = { ...lease, bootId: randomUUID() };
    const runDir = '/nonexistent'; // nothing of a copy is there
    for (const one of [lease, elsewhere]) {
      await expect(stopExportProcess({ db, machineId: there, runDir }, one)).rejects.toEqual(anError('WrongHost'));
    }
    expect(await isAlive(identity)).toBe(true);
    await stopExportProcess({ db, machineId: here, runDir }, elsewhere); // of this machine before its last boot
    expect(await isAlive(identity)).toBe(true);
    await stopExportProcess({ db, machineId: here, runDir }, lease);
    expect(await isAlive(identity)).toBe(false);
  } finally {
    child.kill('SIGKILL');
  }
});

describe('backupvm worker', () => {
  /** Of a machine whose clock is 10 minutes fast: nothing may depend on it. */
  const fastClock = 'data:text/javascript,const now = Date.now; Date.now = () => now() + 600_000';
  const startWorker = (database: TestDatabase, ...argv: string[]) =>
    execa(
      process.execPath,
      ['--import', fastClock, '--import', 'tsx', 'src/cli/main.ts', 'worker', '--only', 'host', ...argv],
      {
        reject: false,
        env: {
          ...{ DATABASE_URL: database.url, BACKUPVM_HOST: 'claimed-host' },
          ...{ TEMPORAL_ADDRESS: inject('temporalAddress'), TEMPORAL_NAMESPACE: inject('temporalNamespace') },
          TEMPORAL_CONFIG_FILE: '/nonexistent.toml',
        },
      },
    );

  test('does not start on a second machine, and does with --take-over, once the first one has no worker', async ({
    database,
    db,
    directory,
  }) => {
    await claimHost(db, { host: 'claimed-host', machineId: there });
    const jobId = await leaseOfDeadMachine(db, 'claimed-host', directory);
    const rows = async () => [await listLeases(db, 'claimed-host'), (await findJob(db, jobId))?.status] as const;
    const refused = await startWorker(database, '--json');
    expect(refused).toMatchObject({ exitCode: 7, stdout: '' });
    expect(JSON.parse(refused.stderr)).toMatchObject({
      error: { code: 'WrongHost', message: expect.stringContaining(there) as string },
    });
    expect(await rows()).toEqual([[expect.objectContaining({ port: 10_809 })], 'running']);

    const worker = startWorker(database, '--take-over');
    let log = '';
    worker.stderr.on('data', (chunk: Buffer) => (log += chunk.toString()));
    await until('the worker', () => log.includes('worker started') || worker.exitCode !== null, 180_000);

    // The machine that is said to be gone, and is not.
    await db.execute(`update hosts set machine_id = '${there}'`);
    const tooEarly = await startWorker(database, '--take-over');
    await db.execute(`update hosts set machine_id = '${readMachineId()}'`);
    expect(tooEarly).toMatchObject({ exitCode: 7, stdout: '' });
    expect(tooEarly.stderr).toContain("worker 'backupvm@claimed-host' still asks for its work");

    worker.kill('SIGTERM');
    expect(await worker).toMatchObject({ exitCode: 0 });
    const tookOver = log.split('\n').find((line) => line.includes('took over the host')) ?? '{}';
    expect(JSON.parse(tookOver)).toMatchObject({ host: 'claimed-host', left: { machineId: there, leasedPorts: 1 } });
    expect(await rows()).toEqual([[], 'failed']);
    await requireClaim(db, { host: 'claimed-host', machineId: readMachineId() });
  }, 300_000); // each look for other workers takes more than a minute

  test('--take-over is refused where no host is served', async ({ database }) => {
    const env = { DATABASE_URL: database.url };
    const { exitCode, stderr } = await runCommand(['worker', '--only', 'workflows', '--take-over'], env);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('--take-over with the role host');
  });
});

test('a repository that another host has registered is refused, and said whose it is', async ({
  database,
  db,
  directory,
}) => {
  const { id } = await createMarker(directory, 'main');
  await addRepository(db, { id, name: 'main', host: 'kvm1', path: '/srv/shared' });
  const add = (host: string) =>
    runCommand(['repository', 'add', 'other', '--path', directory], {
      DATABASE_URL: database.url,
      BACKUPVM_HOST: host,
    });
  const { exitCode, stderr } = await add('kvm2');
  expect(exitCode).toBe(4);
  expect(stderr).toContain(`found the marker file of 'main' (${id}), which is registered already, on host 'kvm1'`);
  expect(stderr).toContain(`at /srv/shared; back up to it through host 'kvm1', or choose a directory of host 'kvm2'`);
  expect((await add('kvm1')).stderr).toContain(`on host 'kvm1' at /srv/shared; see 'backupvm repository list'`);
  expect(await listRepositories(db)).toHaveLength(1);
});

/** The namespace of the tests' server, as the first worker would have recorded it. */
async function namespaceOfServer(db: Database): Promise<Namespace> {
  const [address, name] = [inject('temporalAddress'), inject('temporalNamespace')];
  const connection = await Connection.connect({ address });
  try {
    return await openInstallation(db, connection, { name, address });
  } finally {
    await connection.close();
  }
}

/** A job in mid-copy when its machine, and everything on it, went away. @returns its id */
async function leaseOfDeadMachine(db: Database, host: string, directory: string): Promise<string> {
  const hypervisor = await addHypervisor(db, { name: 'lab', kind: 'qmp', uri: `qmp://${directory}`, host });
  const { id: repositoryId } = await createMarker(directory, 'main');
  await addRepository(db, { id: repositoryId, name: 'main', host, path: directory });
  const key = { hypervisorId: hypervisor.id, repositoryId, vmId: 'web01', vmName: 'web01' };
  const context = await findOrCreateContext(db, key);
  const id = randomUUID();
  const run = { workflowId: 'backup-vm/web01', runId: randomUUID(), namespace: await namespaceOfServer(db) };
  const job = await startJob(db, { id, contextId: context.id, ...run });
  const disk = {
    key: 'vda',
    target: 'vda',
    identity: 'a',
    sizeBytes: 1024,
    parentId: null,
    baseChangeId: null,
    path: 'web01/a.qcow2',
  };
  const [{ id: diskId = '' } = {}] = await planDisks(db, job, [{ ...disk, type: 'full', reason: 'first_backup' }]);
  const ports = { firstPort: 10_809, lastPort: 10_809, avoidPorts: [] };
  await leasePort(db, { host, ...ports, jobId: id, diskId, exportName: 'backupvm/x' });
  await recordAttempt(db, diskId, { attemptPath: 'a', nbdPort: 10_809 });
  await recordProcess(db, { diskId, attemptPath: 'a' }, { pid: process.pid, startTime: '1', bootId: randomUUID() });
  return id;
}
