import { createServer } from 'node:net';
import { once } from 'node:events';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { exportDirectory } from '../../src/activities/export-process.js';
import { exportPidFile, exportSocket, exportUri } from '../../src/nbd/export-socket.js';
import { run } from '../../src/process/run.js';
import { listRunningServers } from '../../src/qemu/running-servers.js';
import { expectSameContent } from '../support/content.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;
const twoDisks = [
  { key: 'root', sizeBytes: 8 * MiB },
  { key: 'data', sizeBytes: 4 * MiB },
];

let world: World;
beforeAll(async () => {
  world = await createWorld('backup-running', { ports: 4 });
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(() => world.close());

const eventTypes = async (handle: WorkflowHandle) => {
  const { events } = await handle.fetchHistory();
  return (events ?? []).map(({ eventType }) => Number(eventType));
};
const started = 2; // PendingActivityState; its enum is not part of the client package
const pendingActivity = async (handle: WorkflowHandle, type: string) => {
  const { raw } = await handle.describe();
  return raw.pendingActivities?.find(
    ({ activityType, state }) => activityType?.name === type && Number(state) === started,
  );
};
/** The moment when a job's copies are about to begin: their files have rows. */
const untilCopying = (vm: string) =>
  until(`a copy of ${vm}`, async () => {
    const { rows } = await world.database.pool.query<{ id: string }>(
      `select d.id from backup_disks d join vm_backup_contexts c on c.id = d.context_id
       join backup_jobs j on j.id = d.job_id where c.vm_name = $1 and d.status = 'copying' and j.status = 'running'`,
      [vm],
    );
    return rows[0]?.id;
  });

describe('a running BackupVM', () => {
  test('two VMs are backed up at once, without sharing ports or files', async () => {
    const one = await world.startVM('one', twoDisks);
    const two = await world.startVM('two', twoDisks);
    await one.write('root', 0, 4 * MiB, 0x11);
    await two.write('root', 0, 4 * MiB, 0x22);
    const [first, second] = await Promise.all([world.backUp({ vm: 'one' }), world.backUp({ vm: 'two' })]);
    await expectSameContent(world, one, first);
    await expectSameContent(world, two, second);
  });

  test('a second start for the same VM and repository fails at once, and the first goes on', async () => {
    const vm = await world.startVM('busy', twoDisks);
    await vm.write('root', 0, 4 * MiB, 0x11);
    const first = await world.start({ vm: 'busy' }, 'backup-vm/busy/scheduled');
    await untilCopying('busy');
    await expect(world.backUp({ vm: 'busy' }, 'backup-vm/busy/by-hand')).rejects.toMatchObject({
      cause: { type: 'BackupAlreadyRunning' },
    });
    await expectSameContent(world, vm, await first.result());
  });

  test('takes at most 80 events of history for two disks', async () => {
    await world.startVM('short', twoDisks);
    const handle = await world.start({ vm: 'short' });
    await handle.result();
    expect((await eventTypes(handle)).length).toBeLessThanOrEqual(80);
  });

  test('a cancellation in the middle of a copy leaves nothing, and the next backup starts where it would have', async () => {
    const vm = await world.startVM('cancelled', twoDisks);
    await vm.write('root', 0, 4 * MiB, 0x11);
    await world.backUp({ vm: 'cancelled' });
    await vm.write('root', 1 * MiB, 1 * MiB, 0x22);
    const handle = await world.start({ vm: 'cancelled' });
    await untilCopying('cancelled');
    vm.pause(); // the copies wait for their source
    await until('the copy to hang', () => pendingActivity(handle, 'transferDisk'));
    await handle.cancel();
    await until('the copy to be stopped', async () => (await pendingActivity(handle, 'transferDisk')) === undefined);
    vm.resume();
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    await expectNothingLeftBehind(world);
    const { rows } = await world.database.pool.query(
      `select status from backup_jobs where workflow_id = $1 order by started_at`,
      [handle.workflowId],
    );
    expect(rows).toEqual([{ status: 'complete' }, { status: 'cancelled' }]);
    const next = await world.backUp({ vm: 'cancelled' });
    expect(next.disks.map(({ type }) => type)).toEqual(['incremental', 'incremental']);
    await expectSameContent(world, vm, next);
  });

  test('qemu-nbd killed in the middle of a copy: the disk is copied anew, from a clean file, of the same moment', async () => {
    const vm = await world.startVM('killed', [{ key: 'root', sizeBytes: 8 * MiB }]);
    await vm.write('root', 0, 4 * MiB, 0x11);
    const handle = await world.start({ vm: 'killed' });
    const diskId = await untilCopying('killed');
    vm.pause();
    await until('the copy to hang', () => pendingActivity(handle, 'transferDisk'));
    const { rows } = await world.database.pool.query<{ pid: number }>(
      `select pid from nbd_exports where disk_id = $1`,
      [diskId],
    );
    process.kill(rows[0]?.pid ?? 0, 'SIGKILL');
    vm.resume();
    await expectSameContent(world, vm, await handle.result());
  });

  test('another user of the host can neither list nor read nor write the export of a copy', async () => {
    const vm = await world.startVM('secret', [{ key: 'root', sizeBytes: 8 * MiB }]);
    await vm.write('root', 0, 4 * MiB, 0x11);
    const handle = await world.start({ vm: 'secret' });
    await untilCopying('secret');
    vm.pause();
    await until('the copy to hang', () => pendingActivity(handle, 'transferDisk'));
    const servers = (await listRunningServers()).filter(({ file }) => file.startsWith(world.directory));
    const uris = servers.map(({ socket, exportName }) => exportUri(socket ?? 'a TCP port', exportName));
    expect(uris).toEqual([expect.stringContaining(encodeURIComponent(world.config.runDir))]);
    const [uri = ''] = uris;
    const attacks = [
      ['nbdinfo', '--list', uri],
      ['nbdinfo', '--size', uri],
      ['qemu-io', '-f', 'raw', '-c', 'read 0 64k', uri],
      ['qemu-io', '-f', 'raw', '-c', 'write -P 0x66 0 64k', uri],
    ];
    const asNobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
    for (const attack of attacks) {
      const { exitCode } = await run('setpriv', [...asNobody, ...attack], { timeoutMs: 30_000 });
      expect(exitCode, attack.join(' ')).not.toBe(0);
    }
    expect((await run('nbdinfo', ['--size', uri], { timeoutMs: 30_000 })).exitCode).toBe(0);
    vm.resume();
    await expectSameContent(world, vm, await handle.result());
  });

  test('a number under which a stranger serves is skipped', async () => {
    const { runDir, nbdPorts } = world.config;
    const socket = exportSocket(exportPidFile(exportDirectory(runDir), nbdPorts.first, 'stranger'));
    const stranger = createServer().listen(socket);
    await once(stranger, 'listening');
    try {
      const vm = await world.startVM('stranger', [{ key: 'root', sizeBytes: 2 * MiB }]);
      await vm.write('root', 0, MiB, 0x11);
      const result = await world.backUp({ vm: 'stranger' });
      await expectSameContent(world, vm, result);
      const { rows } = await world.database.pool.query<{ port: number }>(
        `select d.nbd_port as port from backup_disks d where d.job_id = $1`,
        [result.jobId],
      );
      expect(rows).toEqual([{ port: nbdPorts.first + 1 }]);
    } finally {
      stranger.close();
    }
  });

  test('an exhausted pool of ports waits, says so, and goes on when one is free', async () => {
    const hog = await world.startVM('hog', twoDisks);
    const one = await world.start({ vm: 'hog' });
    const diskId = await untilCopying('hog');
    hog.pause();
    const { rows } = await world.database.pool.query<{ job_id: string }>(
      `select job_id from backup_disks where id = $1`,
      [diskId],
    );
    await world.database.pool.query(
      `insert into nbd_exports (host, port, job_id, disk_id, export_name)
       select $1, port, $2, d.id, 'held' from generate_series($3::int, $4::int) port, backup_disks d
       where d.job_id <> $2 and d.id = (select id from backup_disks where job_id <> $2 order by id offset port - $3::int limit 1)
       on conflict do nothing`,
      [world.config.host, rows[0]?.job_id, world.config.nbdPorts.first, world.config.nbdPorts.last],
    );
    const waiting = await world.startVM('waiting', [{ key: 'root', sizeBytes: 2 * MiB }]);
    const two = await world.start({ vm: 'waiting' });
    const report = await until('the report to say that it waits', async () => {
      const { disks } = await two.query<{ disks: { phase: string }[] }, []>('progress');
      return disks.find(({ phase }) => phase === 'waiting for a port');
    });
    expect(report.phase).toBe('waiting for a port');
    await world.database.pool.query(`delete from nbd_exports where export_name = 'held'`);
    hog.resume();
    await expectSameContent(world, hog, await one.result());
    await expectSameContent(world, waiting, await two.result());
  });
});

describe('a server without our search attributes', () => {
  test('runs backups all the same', async () => {
    const bare = await createWorld('no-search-attributes', { withSearchAttributes: false });
    try {
      const vm = await bare.startVM('bare', [{ key: 'root', sizeBytes: 2 * MiB }]);
      await expectSameContent(bare, vm, await bare.backUp({ vm: 'bare' }));
    } finally {
      await bare.close();
    }
  });

  test('one that has them can list backups by VM, repository, type and status', async () => {
    const vm = await world.startVM('listed', [{ key: 'root', sizeBytes: 2 * MiB }]);
    await expectSameContent(world, vm, await world.backUp({ vm: 'listed' }));
    const query = `BackupVMName = 'listed' and BackupRepository = 'store' and BackupType = 'full' and BackupStatus = 'complete'`;
    const found = await until('the list to hold the backup', async () => {
      for await (const { workflowId } of world.client.workflow.list({ query })) return workflowId;
      return undefined;
    });
    expect(found).toBe('backup-vm/listed');
  });
});
