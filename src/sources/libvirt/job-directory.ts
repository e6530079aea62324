import { chmod, chown, mkdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { BackupError } from '../../domain/errors.js';
import { makePassableDirectory } from '../../process/passable-directory.js';

/**
 * Where one snapshot's files lie. QEMU may write only in `io`: the directory above holds what this process writes and
 * believes, and a guest that broke out into QEMU must not be able to place a symlink there.
 */
export interface JobDirectory {
  root: string;
  io: string;
  socket: string;
  backupXml: string;
  checkpointXml: string;
  /** Exists while the guest may be frozen by this snapshot. */
  frozen: string;
}

const longestSocketPath = 107; // sun_path of Linux, less its final zero

/** The paths of a snapshot's files; makes nothing. @throws BackupError InvalidConfiguration when the socket path is too long */
export function jobDirectory(scratchDir: string, snapshotId: string): JobDirectory {
  if (!/^[\w-]+$/.test(snapshotId)) throw new TypeError(`Expected a UUID as snapshot id, got '${snapshotId}'`);
  const root = path.join(path.resolve(scratchDir), snapshotId);
  const socket = path.join(root, 'io', 'nbd.sock');
  if (Buffer.byteLength(socket) > longestSocketPath) {
    throw new BackupError(
      'InvalidConfiguration',
      `Scratch directory ${scratchDir} makes the socket path ${socket} longer than ${longestSocketPath} bytes; choose a shorter one`,
    );
  }
  return {
    root,
    io: path.join(root, 'io'),
    socket,
    backupXml: path.join(root, 'backup.xml'),
    checkpointXml: path.join(root, 'checkpoint.xml'),
    frozen: path.join(root, 'frozen'),
  };
}

/**
 * Makes the directory, with an `io` that only QEMU's user may enter. May run twice.
 * @throws BackupError InvalidConfiguration when QEMU's user cannot get there, or this process may not give it away
 */
export async function makeJobDirectory(
  directory: JobDirectory,
  qemuUser: { uid: number; gid: number } | null,
): Promise<void> {
  await makePassableDirectory(path.dirname(directory.root));
  await mkdir(directory.root, { recursive: true });
  await chmod(directory.root, 0o711);
  await mkdir(directory.io, { recursive: true });
  await chmod(directory.io, 0o700);
  if (!qemuUser) return; // libvirt names no user where it does not change users: QEMU then runs as we do
  await requireTraversable(directory.root, qemuUser);
  try {
    await chown(directory.io, qemuUser.uid, qemuUser.gid);
  } catch (error) {
    throw new BackupError(
      'InvalidConfiguration',
      `Scratch directory ${directory.io} could not be given to QEMU's user ${qemuUser.uid}; run the worker as root`,
      { cause: error },
    );
  }
}

async function requireTraversable(directory: string, user: { uid: number; gid: number }): Promise<void> {
  if (user.uid === 0) return;
  for (let current = directory; ; current = path.dirname(current)) {
    const { mode, uid, gid } = await stat(current);
    const bit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) {
      const found = (mode & 0o7777).toString(8);
      throw new BackupError(
        'InvalidConfiguration',
        `Directory ${current} above the scratch files has mode ${found}, so QEMU's user ${user.uid} cannot pass; run 'chmod o+x ${current}' or choose another scratch directory`,
      );
    }
    if (current === path.dirname(current)) return;
  }
}

/** Whether a file or directory is there. */
export async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}

/** Removes all files of the snapshot. Nothing there is success. */
export async function removeJobDirectory(directory: JobDirectory): Promise<void> {
  await rm(directory.root, { recursive: true, force: true });
}
