import { getDisk, listChain } from '../db/disks.js';
import { BackupError } from '../domain/errors.js';
import { compareWithSource } from '../qemu/compare-images.js';
import { chainFiles, withPinnedChain } from '../repository/pinned-chain.js';
import { watchCopy } from './copy-watch.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost } from './job-rows.js';

export function createCompareCopyActivities({ db, host, scratchDir, stallTimeoutMs }: HostDependencies) {
  return {
    /** Compares a disk's copy, which nobody writes to any more, with the snapshot that is still open. Reads only; may run twice. */
    async compareCopy(input: { jobId: string; diskId: string }): Promise<void> {
      const { hypervisor, repository } = await getJobRows(db, input.jobId);
      requireHost(host, hypervisor);
      const { diskKey: key, sizeBytes, sourceUri, attemptPath, parentId, status } = await getDisk(db, input.diskId);
      if (sourceUri === null || attemptPath === null) {
        throw new BackupError(
          'CopyFailed',
          `Expected an open snapshot and a copy of disk '${key}', found it ${status}`,
        );
      }
      const parents = parentId === null ? [] : await listChain(db, parentId);
      const chain = chainFiles([{ path: attemptPath }, ...parents]);
      let doneBytes = 0;
      const watch = watchCopy({ disk: key, progress: () => doneBytes, scratchDir, stallTimeoutMs });
      const compare = (cancelSignal: AbortSignal) =>
        withPinnedChain(repository.path, chain, (files) =>
          compareWithSource({
            ...{ sourceUri, files, signal: AbortSignal.any([cancelSignal, watch.signal]) },
            onStart: async ({ pid }) => watch.copies(pid),
            onProgress: (fraction) => (doneBytes = Math.round(fraction * sizeBytes)),
          }),
        );
      try {
        await heartbeating(compare, () => ({ key, doneBytes, totalBytes: sizeBytes }));
      } finally {
        watch.stop();
      }
    },
  };
}

export type CompareCopyActivities = ReturnType<typeof createCompareCopyActivities>;
