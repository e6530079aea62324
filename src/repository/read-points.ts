import { join } from 'node:path';
import { messageOf } from '../domain/message-of.js';
import { diskFilePath, manifestPath } from '../domain/names.js';
import { fileFacts } from './files.js';
import { listBackupFiles } from './list-files.js';
import { readManifest, type Manifest, type ManifestDisk } from './manifest.js';
import { requireOwnFile } from './own-files.js';

/** A restore point as its manifest tells of it. */
export interface FoundPoint {
  /** Of the manifest, relative to the repository, as all paths here. */
  path: string;
  /** The folder of the VM. */
  directory: string;
  pointTime: Date;
  manifest: Manifest;
}

/** A manifest that is not believed, and why. */
export interface ManifestProblem {
  path: string;
  problem: string;
}

export interface FoundPoints {
  /** Oldest first: what a point needs stands before it. */
  points: FoundPoint[];
  problems: ManifestProblem[];
}

/**
 * Finds the restore points of a repository by their manifests alone. Only those are found whose files are there, by the names that
 * we would give them and with the size that the manifest tells, and whose parents are found as well. The rest are problems.
 */
export async function readPoints(root: string, repositoryId: string, signal: AbortSignal): Promise<FoundPoints> {
  const problems: ManifestProblem[] = [];
  const points: FoundPoint[] = [];
  for (const path of await listBackupFiles(root, signal)) {
    if (!/(^|\/)backup-[^/]*\.json$/.test(path)) continue;
    signal.throwIfAborted();
    const read = await readManifest(join(root, path));
    const problem = 'problem' in read ? read.problem : await findProblem(root, repositoryId, path, read.manifest);
    if (problem !== undefined) problems.push({ path, problem });
    else if ('manifest' in read) points.push(foundPoint(path, read.manifest));
  }
  points.sort((a, b) => a.pointTime.getTime() - b.pointTime.getTime() || a.path.localeCompare(b.path));
  const rules = [withoutTwins, ofOneVM, withParents];
  const good = rules.reduce((left, rule) => rule(left, problems), points);
  return { points: good, problems: problems.sort((a, b) => a.path.localeCompare(b.path)) };
}

function foundPoint(path: string, manifest: Manifest): FoundPoint {
  return { path, directory: path.split('/')[0] ?? '', pointTime: new Date(manifest.pointTime), manifest };
}

/** What is wrong with one manifest by itself, or with the files that it names. */
async function findProblem(
  root: string,
  repositoryId: string,
  path: string,
  manifest: Manifest,
): Promise<string | undefined> {
  const { directory, pointTime } = foundPoint(path, manifest);
  if (manifest.repositoryId !== repositoryId) {
    return `expected a point of repository ${repositoryId}, found one of ${manifest.repositoryId}`;
  }
  const expectedPath = manifestPath(directory, pointTime);
  if (expectedPath !== path || pointTime.getTime() % 1000 !== 0) {
    return `expected the manifest of ${manifest.pointTime} as ${expectedPath}`;
  }
  const keys = manifest.disks.map(({ key }) => key);
  if (new Set(keys).size !== keys.length) return `expected each disk once, found ${keys.join(', ')}`;
  for (const disk of manifest.disks) {
    const problem = await findDiskProblem(root, directory, pointTime, disk);
    if (problem !== undefined) return `disk ${disk.key}: ${problem}`;
  }
  return undefined;
}

async function findDiskProblem(
  root: string,
  directory: string,
  pointTime: Date,
  { key, path, type, parent, fileBytes }: ManifestDisk,
): Promise<string | undefined> {
  const expectedPath = diskFilePath(directory, key, pointTime);
  if (path !== expectedPath) return `expected the file ${expectedPath}, found '${path}'`;
  if ((type === 'incremental') !== (parent !== null)) {
    return `expected a parent of an incremental and none of a full, found ${type} with ${parent?.path ?? 'none'}`;
  }
  let found: Awaited<ReturnType<typeof fileFacts>>;
  try {
    found = await fileFacts(await requireOwnFile(root, path, expectedPath)); // no link out of the repository
  } catch (error) {
    return messageOf(error);
  }
  if (!found) return `expected the file ${path}, found none`;
  if (found.fileBytes !== fileBytes) return `expected ${path} with ${fileBytes} bytes, found ${found.fileBytes}`;
  return undefined;
}

type Rule = (points: readonly FoundPoint[], problems: ManifestProblem[]) => FoundPoint[];

/** Points that are good by the rule; the others become problems. */
const each =
  (findIt: (point: FoundPoint, good: readonly FoundPoint[], all: readonly FoundPoint[]) => string | undefined): Rule =>
  (points, problems) => {
    const good: FoundPoint[] = [];
    for (const point of points) {
      const problem = findIt(point, good, points);
      if (problem === undefined) good.push(point);
      else problems.push({ path: point.path, problem });
    }
    return good;
  };

/** Nobody knows which of two manifests of one point is the true one. */
const withoutTwins = each(({ path, manifest: { jobId, disks } }, _good, all) => {
  const others = all.filter((other) => other.path !== path);
  const twin = others.find(({ manifest }) => manifest.jobId === jobId);
  if (twin) return `expected one manifest of point ${jobId}, found ${twin.path} as well`;
  const ids = new Set(disks.map(({ id }) => id));
  if (ids.size !== disks.length) return 'expected an id of its own for each disk, found one twice';
  const sharing = others.find(({ manifest }) => manifest.disks.some(({ id }) => ids.has(id)));
  return sharing && `expected ids of its own for its disks, found one in ${sharing.path} as well`;
});

/** A folder belongs to one VM, and a context to one folder. The oldest manifest says which. */
const ofOneVM = each(({ directory, manifest: { contextId, vm } }, good) => {
  const first = good.find((point) => point.directory === directory || point.manifest.contextId === contextId);
  if (!first || (first.directory === directory && first.manifest.vm.id === vm.id)) return undefined;
  return `expected VM ${first.manifest.vm.id} in folder ${first.directory} as in ${first.path}, found VM ${vm.id} in ${directory}`;
});

/** A point without all that it needs cannot be restored. */
const withParents = each(({ pointTime, manifest: { contextId, disks } }, good) => {
  for (const { key, parent } of disks) {
    if (parent === null) continue;
    const owner = good.find(({ manifest }) => manifest.disks.some(({ id }) => id === parent.id));
    const found = owner?.manifest.disks.find(({ id }) => id === parent.id);
    if (!owner || !found) return `disk ${key}: expected its parent ${parent.path}, found no good point with it`;
    const isOlder = owner.pointTime < pointTime;
    if (found.path !== parent.path || found.key !== key || owner.manifest.contextId !== contextId || !isOlder) {
      return `disk ${key}: expected as parent an older file of the same disk, found ${found.path} of ${owner.path}`;
    }
  }
  return undefined;
});
