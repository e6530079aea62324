import { describe, expect, test } from 'vitest';
import { makeSmallFileSystem, type SmallFileSystem } from '../support/small-file-system.js';
import { until } from '../support/until.js';
import { MiB, withStory, type Story } from './story.js';

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
  const beforeClose = async () => fileSystem?.remove();
  await withStory(
    purpose,
    async (story) => {
      if (!fileSystem) throw new Error('Expected a file system');
      await tell(story, fileSystem);
    },
    { makeRepository, beforeClose },
  );
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

  test('read-only: the backup fails, and clean-up waits until it can remove its files', () =>
    withSmallRepository('repository read-only', async (story, fileSystem) => {
      const { vm, startFaulty, holdCopies, expectRecovered } = story;
      const handle = await startFaulty();
      await holdCopies();
      await fileSystem.remount('abort'); // as after an error of the disk; `ro` is refused while files are open for writing
      vm.resume();
      await untilCleanUpWaits(story);
      await fileSystem.unmount();
      await fileSystem.mount();
      await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'RepositoryUnusable' } });
      await expectRecovered({ outcome: 'failed' });
    }));
});
