import { getContext } from '../db/contexts.js';
import { liftDamage, markDamaged, needsDamaged } from '../db/damage.js';
import { getDisk, listChain, type BackupDisk } from '../db/disks.js';
import { getRepository, type RepositoryRow } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { hashesFilePath } from '../domain/names.js';
import type { VerifyLevel } from '../domain/verify-input.js';
import type { VerifiedFile } from '../domain/verify-result.js';
import { compareBlockHashes } from '../hashes/hash-disk.js';
import { insideRepository } from '../repository/files.js';
import { chainFiles, withPinnedChain } from '../repository/pinned-chain.js';
import { requireRepository } from '../repository/marker.js';
import type { HostDependencies } from './dependencies.js';
import { heartbeating } from './heartbeat.js';
import { getJobRows, requireHost } from './job-rows.js';
import { requireCurrent } from './repository-epoch.js';
import {
  findFileDamage,
  findHashesDamage,
  findImageDamage,
  findManifestDamage,
  type FileToVerify,
} from './verify-file.js';
import type { VerificationChain } from './verify-plan.js';

type Compared = Awaited<ReturnType<typeof compareBlockHashes>>;

/** What was found of one file: `own` spreads to all that need it, `beside` does not, `inherited` comes from what it needs. */
interface Finding {
  own?: string | undefined;
  beside?: string | undefined;
  inherited?: string | undefined;
  /** What the comparison showed where one of the others explains it. */
  content?: string | undefined;
  compared?: Compared | undefined;
}

export function createVerifyChainActivities({ db, host }: HostDependencies) {
  return {
    /** Asks the host before anything is leased: whether the repository is there, and the record of it is not an older one. */
    async probeVerification(input: { contextId: string }): Promise<void> {
      await heartbeating(async () => requireCurrent(db, await findRepository(input.contextId)));
    },

    /**
     * Looks at the files of one disk from the full on, records damage where it finds some, at once, and lifts it where the
     * content and every file that it needs is good. Reads only; may run twice.
     */
    async verifyChain(input: {
      contextId: string;
      chain: VerificationChain;
      level: VerifyLevel;
    }): Promise<VerifiedFile[]> {
      const { chain, level } = input;
      let [phase, doneBytes, partBytes] = ['checking', 0, 0];
      const isCompared = (id: string) => level === 'content' && chain.contentIds.includes(id);

      const verify = async (signal: AbortSignal): Promise<VerifiedFile[]> => {
        const { id: repositoryId, path: root } = await findRepository(input.contextId);
        const found = new Map<string, Finding>();
        const files: VerifiedFile[] = [];
        let chainBytes = 0;
        for (const id of chain.diskIds) {
          const disk = await getDisk(db, id);
          const parent = disk.parentId === null ? null : await getDisk(db, disk.parentId);
          const subject = { root, disk, parent, level, signal };
          phase = 'checking';
          const finding = await lookAt(subject, parent === null ? undefined : found.get(parent.id));
          doneBytes += disk.fileBytes ?? 0;
          chainBytes += disk.fileBytes ?? 0;
          if (isCompared(id)) {
            phase = 'comparing';
            await compare(subject, finding, (fraction) => (partBytes = fraction * chainBytes));
            [doneBytes, partBytes] = [doneBytes + chainBytes, 0];
          }
          found.set(id, finding);
          await requireRepository(root, repositoryId); // a file system that has gone looks like damage
          files.push(await record(disk, finding, isCompared(id)));
        }
        return files;
      };
      const totalBytes = chain.fileBytes + (level === 'content' ? chain.contentIds.length * chain.fileBytes : 0);
      return heartbeating(verify, () => ({
        ...{ key: chain.key, phase, totalBytes },
        doneBytes: Math.min(Math.round(doneBytes + partBytes), totalBytes),
      }));
    },
  };

  async function findRepository(contextId: string): Promise<RepositoryRow> {
    const { repositoryId } = await getContext(db, contextId);
    const repository = await getRepository(db, repositoryId);
    requireHost(host, repository);
    await requireRepository(repository.path, repository.id);
    return repository;
  }

  async function lookAt(subject: FileToVerify, ofParent: Finding | undefined): Promise<Finding> {
    const inherited =
      ofParent?.inherited ??
      (ofParent?.own !== undefined && subject.parent ? needsDamaged(subject.parent.path) : undefined);
    let own = await findFileDamage(subject);
    if (own === undefined && inherited === undefined) own = await findImageDamage(subject);
    const rows = await getJobRows(db, subject.disk.jobId);
    const beside = [await findHashesDamage(subject), await findManifestDamage(db, rows, subject)];
    return { own, inherited, beside: joined(beside) };
  }

  /** Compares the content with the hashes, and adds what that shows to the finding. */
  async function compare(
    { root, disk, signal }: FileToVerify,
    finding: Finding,
    onProgress: (fraction: number) => void,
  ): Promise<void> {
    const hashesFile = insideRepository(root, hashesFilePath(disk.path));
    const chain = chainFiles(await listChain(db, disk.id));
    const isDamaged = finding.own !== undefined || finding.inherited !== undefined;
    try {
      finding.compared = await withPinnedChain(root, chain, (files) =>
        compareBlockHashes({ files, format: 'qcow2', hashesFile, signal, onProgress }),
      );
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof BackupError)) throw error;
      if (isDamaged) return; // it is no news that it cannot be read
      if (error.code === 'PointDamaged') finding.beside ??= error.message;
      else if (error.code === 'ImageDamaged') finding.own = error.message;
      else throw error;
      return;
    }
    const { differentBlocks, comparedBlocks, firstDifferences } = finding.compared;
    if (differentBlocks === 0) return;
    const content = `${differentBlocks} of ${comparedBlocks} blocks are not as they were backed up, the first at byte ${firstDifferences[0] ?? 0}`;
    // Where the hashes are not as they were sealed, it is they that are wrong.
    if (isDamaged || finding.beside !== undefined) finding.content = content;
    else finding.own = `${disk.path}: ${content}`;
  }

  async function record(disk: BackupDisk, finding: Finding, isCompared: boolean): Promise<VerifiedFile> {
    const { own, inherited, beside, content, compared } = finding;
    const damage = joined([own, inherited, beside, content]) ?? null;
    if (damage !== null) await markDamaged(db, disk, { damage, spreads: own !== undefined });
    else if (isCompared) await liftDamage(db, [disk.id]);
    const { job } = await getJobRows(db, disk.jobId);
    return {
      ...{ pointId: job.id, pointTime: job.pointTime.toISOString() },
      ...{ key: disk.diskKey, target: disk.target, path: disk.path, fileBytes: disk.fileBytes ?? 0 },
      comparedBlocks: compared?.comparedBlocks ?? null,
      differentBlocks: compared?.differentBlocks ?? null,
      firstDifferences: compared?.firstDifferences ?? [],
      damage,
    };
  }
}

function joined(parts: readonly (string | undefined)[]): string | undefined {
  const said = parts.filter((part) => part !== undefined);
  return said.length > 0 ? said.join('; ') : undefined;
}

export type VerifyChainActivities = ReturnType<typeof createVerifyChainActivities>;
