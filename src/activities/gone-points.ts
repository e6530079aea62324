import { markDamaged } from '../db/damage.js';
import type { Database } from '../db/database.js';
import { listDisks } from '../db/disks.js';
import type { RepositoryRow } from '../db/repositories.js';
import { listRecordedDisks } from '../db/survey.js';
import { manifestPath } from '../domain/names.js';
import { fileFacts, insideRepository } from '../repository/files.js';

/**
 * Marks restore points whose manifest and whose file of a disk are gone: deleted after the state of an older database. A backup that
 * would build upon one is a full. Safe to repeat.
 * @returns the ids of these points
 */
export async function markGone(db: Database, repository: Pick<RepositoryRow, 'id' | 'path'>): Promise<string[]> {
  const gone = new Set<string>();
  for (const disk of await listRecordedDisks(db, repository.id)) {
    if (disk.fileBytes === null || gone.has(disk.jobId)) continue;
    const paths = [disk.path, manifestPath(disk.directory, disk.pointTime)];
    const found = await Promise.all(paths.map((path) => fileFacts(insideRepository(repository.path, path))));
    if (found.every((facts) => facts === undefined)) gone.add(disk.jobId);
  }
  for (const jobId of gone) {
    for (const { id, path } of await listDisks(db, jobId)) {
      await markDamaged(db, { id, path }, { damage: `${path} is missing`, spreads: true });
    }
  }
  return [...gone];
}
