import { normalize, relative } from 'node:path';
import { listRepositories } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { messageOf } from '../domain/message-of.js';
import { errorCodeOf } from '../repository/file-errors.js';
import { realpath, requireAnswer, statfs } from '../repository/file-system.js';
import type { HostDependencies } from './dependencies.js';

/** Linux's number for it, `OVERLAYFS_SUPER_MAGIC`. */
const overlayType = 0x794c7630;

type Rules = Pick<HostDependencies, 'db' | 'host' | 'restoreDirs' | 'scratchDir' | 'runDir'>;

/**
 * The directory without links in its path, if restores to files and to new VMs may write there. Writes nothing itself, and does not
 * even look at what lies elsewhere. Whoever can start a workflow chooses the directory, so this is checked on the host, and again
 * before each step that writes.
 * @throws BackupError TargetNotAllowed; TargetUnusable when it is not there, or goes with a container; InvalidConfiguration
 */
export async function allowedDirectory(rules: Rules, path: string): Promise<string> {
  if (!rules.restoreDirs.some((allowed) => holds(allowed, normalize(path)))) throw notAllowed(rules, path);
  const directory = await realDirectory(path);
  const shown = directory === path ? path : `${path} (${directory})`;
  const allowed = await findAllowed(rules.restoreDirs, directory);
  if (allowed === undefined) throw notAllowed(rules, shown);
  await requireSeparate(rules, allowed, shown);
  await requireLasting(directory);
  return directory;
}

/**
 * Looks again whether a path that was checked before still leads where it led then, and may be written to.
 * @throws BackupError as `allowedDirectory`; TargetUnusable when a folder of the path has become a link
 */
export async function requireStillAllowed(
  rules: Rules,
  target: 'files' | 'vm' | 'in-place',
  directory: string,
): Promise<void> {
  // In place, the VM's definition says where its images lie, and no input does.
  const found = target === 'in-place' ? await realDirectory(directory) : await allowedDirectory(rules, directory);
  if (found === directory) return;
  throw new BackupError(
    'TargetUnusable',
    `cannot restore to ${directory}: since it was checked, a link in its path leads to ${found}; find out who made it, and restore again`,
  );
}

/**
 * What is written to a container's own file system fills the host's disk, and goes with the container.
 * @throws BackupError TargetUnusable
 */
export async function requireLasting(directory: string): Promise<void> {
  const { type } = await statfs(directory);
  if (type !== overlayType) return;
  throw new BackupError(
    'TargetUnusable',
    `cannot restore to ${directory}: it lies in an overlay, a container's own file system, which goes with the container; mount a directory of the host there`,
  );
}

async function realDirectory(path: string): Promise<string> {
  try {
    await requireAnswer('cat', path);
    return await realpath(path);
  } catch (error) {
    const problem = errorCodeOf(error) === 'ENOENT' ? 'it does not exist; make it first' : messageOf(error);
    throw new BackupError('TargetUnusable', `${path} cannot be restored to: ${problem}`);
  }
}

/** The directory of the configuration that holds this one, without links in its path; undefined when none does. */
async function findAllowed(restoreDirs: readonly string[], directory: string): Promise<Allowed | undefined> {
  for (const configured of restoreDirs) {
    const real = await realpath(configured).catch(() => undefined); // one that is not there holds nothing
    if (real !== undefined && holds(real, directory)) return { configured, real };
  }
  return undefined;
}

interface Allowed {
  configured: string;
  real: string;
}

function notAllowed({ restoreDirs, host }: Rules, shown: string): BackupError {
  const [value, next] =
    restoreDirs.length === 0
      ? ['unset', `set it in the worker's environment`]
      : [`'${restoreDirs.join(':')}'`, `choose a directory there, or add this one in the worker's environment`];
  return new BackupError(
    'TargetNotAllowed',
    `cannot restore to ${shown}: it is not below a directory of BACKUPVM_RESTORE_DIRS (${value} on host '${host}'); ${next}`,
  );
}

/** @throws BackupError InvalidConfiguration for a directory in which a restore could meet a repository, or files of a run */
async function requireSeparate(rules: Rules, { configured, real }: Allowed, shown: string): Promise<void> {
  const repositories = (await listRepositories(rules.db)).filter(({ host }) => host === rules.host);
  const others = [
    ...repositories.map(({ name, path }) => ({ path, what: `repository '${name}'` })),
    { path: rules.scratchDir, what: 'BACKUPVM_SCRATCH_DIR' },
    { path: rules.runDir, what: 'BACKUPVM_RUN_DIR' },
  ];
  for (const { path, what } of others) {
    const other = await realpath(path).catch(() => path);
    if (!holds(real, other) && !holds(other, real)) continue;
    throw new BackupError(
      'InvalidConfiguration',
      `cannot restore to ${shown}: ${configured} of BACKUPVM_RESTORE_DIRS and ${what} (${path}) lie in one another; name a directory of its own`,
    );
  }
}

/** Whether a directory is another one, or holds it. Both without links. */
function holds(directory: string, other: string): boolean {
  return !/^\.\.(\/|$)/.test(relative(directory, other));
}
