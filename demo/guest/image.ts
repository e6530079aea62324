import { createHash } from 'node:crypto';
import { access, chmod, copyFile, cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink } from 'node:fs/promises';
import path from 'node:path';
import { BackupError } from '../../src/domain/errors.js';
import { run, runOrThrow } from '../../src/process/run.js';

/** A kernel and its initial file system: all that the guest is made of. */
export interface GuestImage {
  kernel: string;
  initrd: string;
}

/** What the report function is told, for people. */
export type Report = (line: string) => void;

// The smallest kernels for VMs that Debian and Ubuntu have.
const kernelMetaPackages = ['linux-image-cloud-amd64', 'linux-image-virtual'];
const modules = [
  'virtio',
  'virtio_ring',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'virtio_blk',
  'virtio_console',
];
const initScript = new URL('init', import.meta.url);
const aptTimeoutMs = 300_000; // 27 MB from a mirror that may be slow

/**
 * Makes the guest from Debian packages that are downloaded but not installed, or finds it in the cache, where it is kept by
 * what it is made with: then nothing is asked of the network. May run twice, also at the same time.
 * @throws BackupError ToolMissing, ToolFailed (no such package, no network)
 */
export async function prepareGuestImage(cacheDir: string, report: Report): Promise<GuestImage> {
  const recipe = createHash('sha256')
    .update(await readFile(initScript))
    .update(await readFile(new URL(import.meta.url)));
  const final = path.join(cacheDir, `guest-${recipe.digest('hex').slice(0, 12)}`);
  const image = { kernel: path.join(final, 'vmlinuz'), initrd: path.join(final, 'initrd') };
  if (await isThere(image.initrd)) return image;

  await mkdir(cacheDir, { recursive: true });
  const work = await mkdtemp(path.join(cacheDir, 'making-'));
  try {
    const { packages, kernelRelease } = await download(work, report);
    report(`Making the guest: Linux ${kernelRelease}, busybox and the QEMU guest agent`);
    const result = path.join(work, 'result');
    await mkdir(result);
    await copyFile(path.join(packages, 'boot', `vmlinuz-${kernelRelease}`), path.join(result, 'vmlinuz'));
    await makeInitrd(packages, kernelRelease, path.join(work, 'root'), path.join(result, 'initrd'));
    await rename(result, final).catch(async (error: unknown) => {
      if (!(await isThere(image.initrd))) throw error; // somebody else made the same at the same time
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return image;
}

async function isThere(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

/** Unpacks the kernel and the guest agent below `work`. */
async function download(work: string, report: Report): Promise<{ packages: string; kernelRelease: string }> {
  const kernelPackages = await findKernelPackages(report);
  const names = [...kernelPackages, 'qemu-guest-agent'];
  report(`Downloading ${names.join(', ')}`);
  await chmod(work, 0o755); // apt downloads as its own user where it can
  await runOrThrow('apt-get', ['-q', 'download', ...names], { cwd: work, timeoutMs: aptTimeoutMs });
  const packages = path.join(work, 'packages');
  for (const file of (await readdir(work)).filter((name) => name.endsWith('.deb'))) {
    await runOrThrow('dpkg-deb', ['-x', file, packages], { cwd: work, timeoutMs: 120_000 }); // 400 MB of small files
  }
  const kernel = (await readdir(path.join(packages, 'boot'))).find((name) => name.startsWith('vmlinuz-'));
  if (!kernel) throw new BackupError('ToolFailed', `Expected a kernel in ${kernelPackages.join(', ')}, found none`);
  return { packages, kernelRelease: kernel.slice('vmlinuz-'.length) };
}

async function findKernelPackages(report: Report): Promise<string[]> {
  const found = await dependenciesOfMetaPackages();
  if (found.length > 0) return found;
  report('Updating the package lists');
  await runOrThrow('apt-get', ['-q', 'update'], { timeoutMs: aptTimeoutMs });
  const afterUpdate = await dependenciesOfMetaPackages();
  if (afterUpdate.length > 0) return afterUpdate;
  throw new BackupError('ToolFailed', `Expected one of the packages ${kernelMetaPackages.join(', ')}, found none`);
}

async function dependenciesOfMetaPackages(): Promise<string[]> {
  for (const name of kernelMetaPackages) {
    const { stdout } = await run('apt-cache', ['depends', name], { timeoutMs: 60_000 }); // reads its index from a cold disk
    const found = [...stdout.matchAll(/Depends: (linux-(?:image|modules)-\d\S*)/g)].flatMap((match) => match[1] ?? []);
    if (found.length > 0) return found;
  }
  return [];
}

async function makeInitrd(packages: string, kernelRelease: string, root: string, initrd: string): Promise<void> {
  for (const name of ['bin', 'sbin', 'proc', 'sys', 'dev', 'tmp', 'mnt', 'mods', 'etc', 'run']) {
    await mkdir(path.join(root, name), { recursive: true });
  }
  await copyFile(initScript, path.join(root, 'init'));
  await chmod(path.join(root, 'init'), 0o755);
  await addBusybox(root);
  await addAgent(path.join(packages, 'usr/sbin/qemu-ga'), root);
  await addModules(path.join(packages, 'lib/modules', kernelRelease), root);
  const files = await readdir(root, { recursive: true });
  await runOrThrow('cpio', ['--quiet', '-o', '-H', 'newc', '-R', '0:0', '-O', initrd], {
    cwd: root,
    input: ['.', ...files].join('\n') + '\n',
    timeoutMs: 60_000, // some 15 MB, on a busy disk
  });
}

async function addBusybox(root: string): Promise<void> {
  const file = (await isThere('/usr/bin/busybox')) ? '/usr/bin/busybox' : '/bin/busybox';
  if (!(await isThere(file)) || (await librariesOf(file)).length > 0) {
    throw new BackupError(
      'ToolMissing',
      `Expected a busybox without libraries at /usr/bin/busybox or /bin/busybox, found none; install the Debian package 'busybox-static'`,
    );
  }
  await copyFile(file, path.join(root, 'bin/busybox'));
  const applets =
    'sh ash cat cmp cp cut date dd df echo fallocate find fstrim grep head hexdump insmod ln ls md5sum mkdir mke2fs mount ' +
    'mv od poweroff printf rm rmdir sed seq sha256sum sleep sort stat sync tail test touch tr truncate umount wc xargs yes [';
  for (const applet of applets.split(' ')) await symlink('busybox', path.join(root, 'bin', applet));
}

/** The agent is linked dynamically: the host's libraries go with it, at their own places. */
async function addAgent(agent: string, root: string): Promise<void> {
  await copyFile(agent, path.join(root, 'bin/qemu-ga'));
  for (const library of await librariesOf(agent)) {
    const place = path.join(root, library);
    await mkdir(path.dirname(place), { recursive: true });
    await cp(library, place, { dereference: true });
  }
}

async function librariesOf(file: string): Promise<string[]> {
  const { stdout } = await run('ldd', [file], { timeoutMs: 30_000 }); // it runs the loader, no more
  const missing = /^\s*(\S+) => not found/m.exec(stdout)?.[1];
  if (missing) throw new BackupError('ToolMissing', `Library ${missing} of ${file} was not found on this machine`);
  return [...stdout.matchAll(/(\/\S+) \(0x/g)].flatMap((match) => match[1] ?? []);
}

/** Modules that are not there are taken for built in. */
async function addModules(directory: string, root: string): Promise<void> {
  const files = await readdir(directory, { recursive: true });
  for (const module of modules) {
    const file = files.find((name) => path.basename(name) === `${module}.ko`);
    if (file) await copyFile(path.join(directory, file), path.join(root, 'mods', `${module}.ko`));
  }
}
