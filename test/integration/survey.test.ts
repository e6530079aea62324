import { appendFile, chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test, vi } from 'vitest';
import { exportDirectory } from '../../src/activities/export-process.js';
import { identify, isAlive, stopProcess, type ProcessIdentity } from '../../src/process/identity.js';
import { runOrThrow } from '../../src/process/run.js';
import { markerName } from '../../src/repository/marker.js';
import { mainQueue } from '../../src/workflows/messages.js';
import type { ReconcileHostInput, ReconcileHostResult } from '../../src/workflows/reconcile-host.js';
import { expectNothingLeftBehind } from '../support/left-behind.js';
import { freePorts } from '../support/ports.js';
import { until } from '../support/until.js';
import { createWorld, type World } from '../support/world.js';
import { documentOf, runCommand } from '../unit/cli/run-command.js';

const MiB = 1024 * 1024;

let world: World;
beforeAll(async () => {
  world = await createWorld('survey');
});
beforeEach(() => {
  vi.stubEnv('TEMPORAL_ADDRESS', inject('temporalAddress'));
  vi.stubEnv('TEMPORAL_NAMESPACE', world.namespace);
  vi.stubEnv('TEMPORAL_CONFIG_FILE', `${world.directory}/none.toml`);
  return () => vi.unstubAllEnvs();
});
afterEach(() => expectNothingLeftBehind(world));
afterAll(() => world.close());

let count = 0;
const reconcile = async (input: Partial<ReconcileHostInput>): Promise<ReconcileHostResult> =>
  (await world.client.workflow.execute('ReconcileHost', {
    taskQueue: mainQueue,
    workflowId: `survey/${(count += 1)}`,
    args: [{ host: world.config.host, ...input }],
  })) as ReconcileHostResult;
const backupvm = (...argv: string[]) =>
  runCommand(argv, { DATABASE_URL: world.database.url, BACKUPVM_HOST: world.config.host });

/** Of this test's world: on a machine that is shared, others' exports of our name are found, too. */
const ownPids = ({ unknownExports }: ReconcileHostResult) =>
  unknownExports?.first.filter(({ file }) => file.startsWith(world.directory)).map(({ pid }) => pid);

/** A real qemu-nbd without a lease, on a TCP port or a Unix socket, for as long as the test needs it. */
async function withStranger(
  place: number | string,
  exportName: string,
  use: (stranger: ProcessIdentity) => Promise<void>,
) {
  const name = join(world.directory, basename(String(place)));
  const [image, pidFile] = [`${name}.raw`, `${name}.pid`];
  await writeFile(image, Buffer.alloc(MiB));
  const address = typeof place === 'number' ? ['--bind=127.0.0.1', `--port=${place}`] : [`--socket=${place}`];
  const where = [...address, `--export-name=${exportName}`, `--pid-file=${pidFile}`];
  await runOrThrow('qemu-nbd', ['--format=raw', '--persistent', '--fork', ...where, image], { timeoutMs: 60_000 });
  const stranger = await identify(Number(await readFile(pidFile, 'latin1')));
  if (!stranger) throw new Error('qemu-nbd ended right after its start');
  try {
    await use(stranger);
  } finally {
    await stopProcess(stranger, { termTimeoutMs: 10_000, killTimeoutMs: 10_000 });
  }
}

/** Writes a file below the repository, for as long as the test needs it. */
async function withFiles(paths: readonly string[], use: () => Promise<void>) {
  for (const path of paths) {
    await mkdir(dirname(join(world.repository.path, path)), { recursive: true });
    await writeFile(join(world.repository.path, path), 'stray');
  }
  try {
    await use();
  } finally {
    for (const path of paths) await rm(join(world.repository.path, path));
  }
}

async function backUpNew(name: string) {
  const vm = await world.startVM(name, [{ key: 'root', sizeBytes: 4 * MiB }]);
  await vm.write('root', 0, 2 * MiB, 0x11);
  const { disks, jobId } = await world.backUp({ vm: name });
  const path = disks[0]?.path ?? '';
  return { vm, jobId, path, file: join(world.repository.path, path) };
}

describe('exports', () => {
  test('a stranger’s qemu-nbd on a port of ours is shown by every run, and left alone', async () => {
    const port = world.config.nbdPorts.last;
    await withStranger(port, 'theirs', async (stranger) => {
      const result = await reconcile({});
      const file = join(world.directory, `${port}.raw`);
      expect(result.unknownExports?.first).toContainEqual({
        ...{ pid: stranger.pid, port, socket: null, exportName: 'theirs', file },
      });
      expect(result).toMatchObject({ orphans: [], unknownFiles: null, changedFiles: null, problems: [] });
      expect(await isAlive(stranger)).toBe(true);
      const { stdout } = await backupvm('reconcile', '--dry-run');
      expect(stdout).toMatch(
        new RegExp(`qemu-nbd, pid ${stranger.pid} +port ${port}, export 'theirs', ${file} +no lease`),
      );
    });
    expect(ownPids(await reconcile({}))).toEqual([]);
  });

  test('a stranger’s qemu-nbd on a socket where ours listen is shown, one on a socket elsewhere is not', async () => {
    const directory = exportDirectory(world.config.runDir);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const socket = join(directory, '10809-theirs.sock');
    await withStranger(socket, 'theirs', async ({ pid }) => {
      await withStranger(join(world.directory, 'elsewhere.sock'), 'theirs', async () => {
        const result = await reconcile({});
        expect(ownPids(result)).toEqual([pid]);
        expect(result.unknownExports?.first).toContainEqual(expect.objectContaining({ pid, port: null, socket }));
        const { stdout } = await backupvm('reconcile', '--dry-run');
        expect(stdout).toContain(`socket ${socket}, export 'theirs'`);
      });
    });
    await rm(socket, { force: true });
  });

  test('one under our name is shown on whichever port, one under another name elsewhere is not', async () => {
    const { first, last } = await freePorts(2);
    await withStranger(first, 'backupvm/lost/root', async (lost) => {
      await withStranger(last, 'theirs', async () => {
        expect(ownPids(await reconcile({ dryRun: true }))).toEqual([lost.pid]);
      });
    });
  });
});

describe('files', () => {
  test('what no row knows is shown and left alone, and other people’s files are not shown', async () => {
    const { path } = await backUpNew('strays');
    const strays = [`${path.slice(0, -6)}-copy.qcow2`, 'gone/vda/.job.1.x.qcow2.partial', 'gone/backup-gone-1.json'];
    await withFiles([...strays, 'notes.txt', 'strays/photo.json'], async () => {
      const { unknownFiles, changedFiles, problems } = await reconcile({ survey: true });
      const expected = strays.toSorted().map((stray) => ({ repository: 'store', path: stray, fileBytes: 5 }));
      expect(unknownFiles).toEqual({ count: 3, first: expected });
      expect({ changedFiles, problems }).toEqual({ changedFiles: { count: 0, first: [] }, problems: [] });
      const { stdout, exitCode } = await backupvm('reconcile');
      expect(exitCode).toBe(0);
      expect(stdout).toMatch(/^Nothing to clean up on host 'test-host'\n\nFOUND, LEFT ALONE +WHERE +WHY\n/);
      expect(stdout).toMatch(/file, 5 B +gone\/backup-gone-1\.json in store +no restore point, no backup that runs\n/);
    }); // which finds each of them there still
  });

  test('of very many the first fifty are shown, and all are counted', async () => {
    const strays = Array.from({ length: 60 }, (_, index) => `many/${100 + index}.qcow2`);
    await withFiles(strays, async () => {
      const { unknownFiles } = await reconcile({ survey: true });
      expect(unknownFiles?.count).toBe(60);
      expect(unknownFiles?.first.map(({ path }) => path)).toEqual(strays.slice(0, 50));
      expect((await backupvm('reconcile')).stdout).toMatch(/^… 10 more unknown files$/m);
    });
  });

  test('a restore point’s file that is missing or has another size is shown', async () => {
    const [missing, longer] = [await backUpNew('missing'), await backUpNew('longer')];
    await rename(missing.file, `${missing.file}.away`);
    const before = await readFile(longer.file);
    await appendFile(longer.file, 'x');
    const { changedFiles, unknownFiles } = await reconcile({ survey: true });
    expect(changedFiles).toMatchObject({
      count: 2,
      first: [
        { vm: 'longer', jobId: longer.jobId, path: longer.path, foundBytes: before.length + 1 },
        { vm: 'missing', jobId: missing.jobId, path: missing.path, foundBytes: null },
      ],
    });
    expect(unknownFiles?.count).toBe(0);
    const shown = documentOf<ReconcileHostResult>(await backupvm('reconcile', '--json'));
    expect(shown.changedFiles?.first[0]).toMatchObject({ expectedBytes: before.length });
    expect((await backupvm('reconcile')).stdout).toContain('file is missing');
    await rename(`${missing.file}.away`, missing.file);
    await writeFile(longer.file, before);
    expect((await reconcile({ survey: true })).changedFiles).toEqual({ count: 0, first: [] });
  });

  test('a backup that runs is not shown', async () => {
    const { vm } = await backUpNew('runs');
    await vm.write('root', 0, MiB, 0x22);
    const handle = await world.start({ vm: 'runs' });
    await until('its export', async () => {
      const { rows } = await world.database.pool.query(`select 1 from nbd_exports where pid is not null`);
      if (rows.length > 0) vm.pause();
      return rows.length > 0;
    });
    const result = await reconcile({ survey: true });
    vm.resume();
    await handle.result();
    expect(result).toMatchObject({ unknownFiles: { count: 0 }, changedFiles: { count: 0 }, problems: [] });
    expect(ownPids(result)).toEqual([]);
  });

  test('whatever moment of backups that come and go it meets, nothing of theirs is shown', async () => {
    const vms = await Promise.all(['busy1', 'busy2', 'busy3'].map((name) => backUpNew(name)));
    let isDone = false;
    const backups = Promise.all(
      vms.map(async ({ vm }, index) => {
        await vm.write('root', 0, MiB, 0x33);
        await world.backUp({ vm: `busy${index + 1}` });
      }),
    ).finally(() => (isDone = true));
    let runs = 0;
    for (; !isDone; runs += 1) {
      const result = await reconcile({ survey: true });
      expect(result).toMatchObject({ unknownFiles: { count: 0 }, changedFiles: { count: 0 }, problems: [] });
      expect(ownPids(result)).toEqual([]);
    }
    expect(runs).toBeGreaterThan(2);
    await backups;
  });

  test('a repository that other users can read is shown, with what closes it', async () => {
    const { path } = world.repository;
    const file = await backUpNew('open');
    await chmod(path, 0o711);
    await chmod(file.file, 0o644);
    const { problems } = await reconcile({ survey: true });
    expect(problems).toEqual([
      `Repository 'store': other users of this host can reach it: ${path} has mode 711, and 1 of its files are open to them; run 'chmod -R go= ${path}'`,
    ]);
    await chmod(path, 0o700);
    expect((await reconcile({ survey: true })).problems).toEqual([]);
  });

  test('a repository that is not there is said once, and its points are not called missing', async () => {
    await backUpNew('unmounted');
    const marker = join(world.repository.path, markerName);
    await rename(marker, `${marker}.away`);
    const result = await reconcile({ survey: true });
    expect(result.changedFiles).toEqual({ count: 0, first: [] });
    expect(result.problems).toEqual([expect.stringMatching(/^Repository 'store' was not looked at whole: .*mounted/)]);
    expect((await backupvm('reconcile')).stdout).toContain("Warning: Repository 'store' was not looked at whole");
    await rename(`${marker}.away`, marker);
  });
});
