import { execa } from 'execa';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test } from 'vitest';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';

const MiB = 1024 * 1024;

let world: World;
beforeAll(async () => {
  world = await createWorld('temporal-cli');
  const vm = await world.startVM('web01', [
    { key: 'root', sizeBytes: 4 * MiB },
    { key: 'data', sizeBytes: 2 * MiB },
  ]);
  await vm.write('root', 0, MiB, 0x11);
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(() => world.close());

/** Runs the Temporal CLI as a user would, whose settings know no other server than the test's. */
async function temporal<T = unknown>(...args: string[]): Promise<T> {
  const env = { TEMPORAL_ADDRESS: inject('temporalAddress'), TEMPORAL_NAMESPACE: world.namespace };
  const { stdout } = await execa(inject('temporalCLIPath'), [...args, '--output', 'json'], {
    env: { ...env, PATH: process.env['PATH'], HOME: world.directory },
    extendEnv: false,
  });
  return (stdout === '' ? undefined : JSON.parse(stdout)) as T;
}

interface Payload {
  data: string;
}
interface HistoryEvent {
  eventType: string;
  userMetadata?: { summary?: Payload };
  activityTaskScheduledEventAttributes?: { activityType: { name: string } };
  markerRecordedEventAttributes?: { markerName: string; details: { data?: { payloads: Payload[] } } };
}

const decode = <T>(payload: Payload | undefined) =>
  payload && (JSON.parse(Buffer.from(payload.data, 'base64').toString('utf8')) as T);

describe('with the Temporal CLI', () => {
  test('a VM is backed up by naming it, where one hypervisor and one repository are registered', async () => {
    await temporal(
      ...['workflow', 'start', '--type', 'BackupVM', '--task-queue', 'backupvm'],
      ...['--workflow-id', 'backup-vm/web01', '--input', '{"vm":"web01"}'],
    );
    const { status, result } = await temporal<{ status: string; result: Record<string, unknown> }>(
      ...['workflow', 'result', '--workflow-id', 'backup-vm/web01'],
    );
    expect(status).toBe('COMPLETED');
    const disk = (key: string, sizeBytes: number, changedBytes: number, writtenBytes: number) => ({
      ...{ key, type: 'full', reason: 'first_backup', sizeBytes, changedBytes, writtenBytes },
      path: expect.stringMatching(`^web01/${key}/backup-web01-${key}-\\d{8}-\\d{6}\\.qcow2$`) as string,
    });
    expect(result).toStrictEqual({
      jobId: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
      consistency: 'crash',
      warnings: null, // how the Temporal CLI prints an empty list
      disks: [disk('data', 2 * MiB, 0, 0), disk('root', 4 * MiB, MiB, MiB)],
    });
  });

  test('the history names every step, and says what each is for', async () => {
    const { events } = await temporal<{ events: HistoryEvent[] }>(
      'workflow',
      'show',
      '--workflow-id',
      'backup-vm/web01',
    );
    const regular = events.flatMap(({ activityTaskScheduledEventAttributes: attributes, userMetadata }) =>
      attributes ? [`${attributes.activityType.name}: ${decode<string>(userMetadata?.summary) ?? 'none'}`] : [],
    );
    expect(regular.sort()).toEqual([
      'cleanUp: stop every qemu-nbd, release ports, end the snapshot',
      'closeSnapshot: the last byte is copied',
      'openSnapshot: one moment of 2 disk(s)',
      'probeHost: none',
      'sealRestorePoint: none',
      'startExport: serve the new file of data',
      'startExport: serve the new file of root',
      'stopExport: stop qemu-nbd of data',
      'stopExport: stop qemu-nbd of root',
      'transferDisk: copy data',
      'transferDisk: copy root',
    ]);
    const local = events.flatMap(({ markerRecordedEventAttributes: marker }) =>
      marker ? [decode<{ activity_type: string }>(marker.details.data?.payloads[0])?.activity_type] : [],
    );
    expect(local.sort()).toEqual([
      ...['allocatePort', 'allocatePort', 'insertJob', 'lookUpContext', 'lookUpTargets'],
      ...['recordChangeId', 'recordChangeId'],
    ]);
  });

  test('the current details hold a table of the disks', async () => {
    const { queryResult } = await temporal<{ queryResult: { currentDetails: string }[] }>(
      ...['workflow', 'metadata', '--workflow-id', 'backup-vm/web01'],
    );
    const currentDetails = queryResult[0]?.currentDetails ?? '';
    expect(currentDetails).toMatch(/^\*\*Backup of web01\*\*: complete\n\njob [0-9a-f-]{36}\n\n/);
    expect(currentDetails.split('\n').slice(4)).toEqual([
      '| disk | type | reason | phase | size | changed | written |',
      '| --- | --- | --- | --- | --- | --- | --- |',
      '| data | full | the first backup of this VM | complete | 2.0 MiB | 0 B | 0 B |',
      '| root | full | the first backup of this VM | complete | 4.0 MiB | 1.0 MiB | 1.0 MiB |',
    ]);
  });

  test('a schedule runs backups', async () => {
    await temporal(
      ...['schedule', 'create', '--schedule-id', 'nightly', '--interval', '1d', '--overlap-policy', 'Skip'],
      ...['--type', 'BackupVM', '--task-queue', 'backupvm', '--workflow-id', 'backup-vm/web01'],
      ...['--input', '{"vm":"web01"}'],
    );
    await temporal('schedule', 'trigger', '--schedule-id', 'nightly');
    const handle = world.client.schedule.getHandle('nightly');
    const { workflowId } = await until('the schedule to start a backup', async () => {
      const { info } = await handle.describe();
      return info.recentActions[0]?.action.workflow;
    });
    expect(workflowId).toMatch(/^backup-vm\/web01-\d{4}-/); // the server appends the time
    const { result } = await temporal<{ result: { disks: { type: string }[] } }>(
      ...['workflow', 'result', '--workflow-id', workflowId],
    );
    expect(result.disks.map(({ type }) => type)).toEqual(['incremental', 'incremental']);
    await temporal('schedule', 'delete', '--schedule-id', 'nightly');
  });
});
