import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { addRepository } from '../../src/db/repositories.js';
import { createMarker } from '../../src/repository/marker.js';
import { progressQuery, searchAttributes } from '../../src/workflows/messages.js';
import { makeSmallFileSystem, type SmallFileSystem } from '../support/small-file-system.js';
import { until } from '../support/until.js';
import { faultyId, MiB, withStory, type Story } from './story.js';

/** A story whose repository is a small file system of its own. */
async function withSmallRepository(
  purpose: string,
  tell: (story: Story, fileSystem: SmallFileSystem) => Promise<void>,
): Promise<void> {
  let fileSystem: SmallFileSystem | undefined;
  const makeRepository = async (directory: string) => {
    fileSystem = await makeSmallFileSystem(directory, 'repository', 160 * MiB); // 64 MiB must stay free
    return fileSystem.path;
  };
  const beforeClose = async () => {
    await fileSystem?.thaw();
    await fileSystem?.remove();
  };
  await withStory(
    purpose,
    async (story) => {
      if (!fileSystem) throw new Error('Expected a file system');
      await tell(story, fileSystem);
    },
    { makeRepository, beforeClose, stallTimeoutMs: 5_000 },
  );
}

/** A backup of another VM to another repository of the same host, which goes again so that the story is told with one. */
async function expectOtherRepositoryWorks({ lab }: Story): Promise<void> {
  const path = join(lab.directory, 'other');
  await mkdir(path);
  const { id } = await createMarker(path, 'other');
  await addRepository(lab.database.db, { id, name: 'other', host: lab.config.host, path });
  const vm = await lab.startVM('other', [{ key: 'root', sizeBytes: MiB }]);
  await lab.backUp({ vm: 'other', repository: 'other' });
  await vm.stop();
  await lab.database.pool.query(`delete from vm_backup_contexts where repository_id = $1`, [id]);
  await lab.database.pool.query(`delete from repositories where id = $1`, [id]);
}

/** Steps that were taken for dead: their heartbeats have stopped. */
async function silentSteps({ lab }: Story): Promise<number> {
  const { events } = await lab.client.workflow.getHandle(faultyId).fetchHistory();
  return (events ?? []).filter(({ activityTaskTimedOutEventAttributes: timedOut }) => timedOut).length;
}

/** The clean-up has been tried, and could not be done. */
const untilCleanUpWaits = ({ lab }: Story) =>
  until('a clean-up that waits', async () => {
    const { rows } = await lab.database.pool.query<{ error: string | null }>(
      `select clean_up_error as error from backup_jobs where status = 'aborting'`,
    );
    return rows[0]?.error ?? undefined;
  });

describe.concurrent('in the middle of a copy, the repository is', () => {
  test('full: the backup fails with RepositoryFull, and nothing of earlier points is touched', () =>
    withSmallRepository('repository full', async ({ vm, startFaulty, holdCopies, expectRecovered }, fileSystem) => {
      const handle = await startFaulty();
      await holdCopies();
      await fileSystem.fillUp();
      vm.resume();
      await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'RepositoryFull' } });
      await fileSystem.empty();
      await expectRecovered({ outcome: 'failed' });
    }));

  test('unmounted: the backup fails, nothing is written below the mount point, and clean-up waits for the mount', () =>
    withSmallRepository('repository unmounted', async (story, fileSystem) => {
      const { vm, startFaulty, holdCopies, expectRecovered } = story;
      const handle = await startFaulty();
      await holdCopies();
      await fileSystem.detach();
      vm.resume();
      await untilCleanUpWaits(story);
      await fileSystem.mount();
      await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'RepositoryUnusable' } });
      await expectRecovered({ outcome: 'failed' });
    }));

  test('read-only: the backup fails, and clean-up waits, shown as pending, until it can remove its files', () =>
    withSmallRepository('repository read-only', async (story, fileSystem) => {
      const { vm, startFaulty, holdCopies, expectRecovered } = story;
      const handle = await startFaulty();
      await holdCopies();
      await fileSystem.remount('abort'); // as after an error of the disk; `ro` is refused while files are open for writing
      vm.resume();
      await untilCleanUpWaits(story);
      await until(
        'the status that lists show',
        async () => {
          const { typedSearchAttributes } = await handle.describe();
          return typedSearchAttributes.get(searchAttributes.status) === 'clean-up pending';
        },
        240_000,
      );
      expect((await handle.query(progressQuery)).step).toContain('clean-up is pending');
      await fileSystem.unmount();
      await fileSystem.mount();
      await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'RepositoryUnusable' } });
      await expectRecovered({ outcome: 'failed' });
    }));
});

describe.concurrent('a repository whose file system hangs', () => {
  test('before the copy: the backup fails with its path, and backups to another one go on meanwhile', () =>
    withSmallRepository('repository hangs', async (story, fileSystem) => {
      await fileSystem.freeze();
      const handle = await story.startFaulty();
      await expectOtherRepositoryWorks(story);
      const message = expect.stringContaining(fileSystem.path) as string;
      await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'RepositoryUnusable', message } });
      await fileSystem.thaw();
      await story.expectRecovered({ outcome: 'none' });
    }));

  test('in the middle of a copy: it is ended as stalled, heartbeats go on, and it is made anew once it answers', () =>
    withSmallRepository('repository hangs in copy', async (story, fileSystem) => {
      const handle = await story.startFaulty();
      await story.holdCopies();
      await fileSystem.freeze();
      story.vm.resume();
      await expectOtherRepositoryWorks(story);
      await until(
        'a qemu-nbd that cannot be stopped',
        async () => {
          const { raw } = await handle.describe();
          return raw.pendingActivities?.some(({ lastFailure }) => lastFailure?.message?.includes('SIGKILL'));
        },
        120_000,
      );
      await fileSystem.thaw();
      await handle.result();
      expect(await silentSteps(story)).toBe(0);
      await story.expectRecovered({ outcome: 'complete' });
    }));
});
