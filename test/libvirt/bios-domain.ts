import { randomUUID } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemUri } from '../../demo/libvirtd.js';
import { runOrThrow } from '../../src/process/run.js';
import { createLibvirtSource } from '../../src/sources/libvirt/libvirt-source.js';
import type { Source } from '../../src/sources/source.js';
import type { SourceFixture } from '../contract/source-fixture.js';

export interface BiosDisk {
  /** Its serial, if it has one, and else its target. */
  key: string;
  target: string;
  /** A multiple of 512. */
  sizeBytes: number;
  format?: 'qcow2' | 'raw';
  /** Served by the VM's one iothread. A target `sd…` is on the SCSI controller, which has the iothread then. */
  hasIothread?: boolean;
}

/** A real QEMU under libvirt that finds nothing to boot: only the test writes to its disks. */
export interface BiosDomain {
  name: string;
  vmId: string;
  directory: string;
  scratchDir: string;
  source: Source;
  /** What the guest would do; `command` is qemu-io's. Returns when it is done. */
  guestIO: (key: string, command: string) => Promise<void>;
  imageOf: (key: string) => string;
  /** Defines the VM again, with the same UUID; it counts from the next start. */
  define: (disks: BiosDisk[]) => Promise<void>;
  /** Gives each of two disks the image of the other, by an edit of the definition. */
  exchange: (key: string, otherKey: string) => Promise<void>;
  /** Gives a disk another image, in the same way. */
  useImage: (key: string, file: string) => Promise<void>;
  dispose: () => Promise<void>;
}

/** Runs virsh on the system's libvirt. */
export const virsh = (...args: string[]) => virshAt(systemUri, ...args);

export async function virshAt(uri: string, ...args: string[]): Promise<string> {
  // 60 s: twice what libvirt waits for its state change lock.
  return (await runOrThrow('virsh', ['-q', '-c', uri, ...args], { timeoutMs: 60_000 })).stdout;
}

// Names are people's, so every test has a bad one.
const badName = () => `backupvm-test ${randomUUID().slice(0, 8)} it's <1> & "ü"`;

/** Defines one, without starting it. `extraXml` holds `<disk>` elements that are not plain disks. */
export async function defineBiosDomain(
  disks: BiosDisk[],
  extraXml = '',
  name = badName(),
  uri = systemUri,
): Promise<BiosDomain> {
  const virsh = (...args: string[]) => virshAt(uri, ...args);
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-libvirt-'));
  await chmod(directory, 0o755);
  const vmId = randomUUID();
  const scratchDir = join(directory, 'scratch');
  const imageOf = (key: string) => join(directory, `${key}.img`);
  for (const { key, sizeBytes, format } of disks) {
    const args = ['create', '-q', '-f', format ?? 'qcow2', imageOf(key), String(sizeBytes)];
    await runOrThrow('qemu-img', args, { timeoutMs: 30_000 });
  }
  async function edit(change: (xml: string) => string): Promise<void> {
    const file = join(directory, 'domain.xml');
    await writeFile(file, change(await virsh('dumpxml', vmId, '--inactive')));
    await virsh('define', file);
  }
  const domain: BiosDomain = {
    name,
    vmId,
    directory,
    scratchDir,
    source: createLibvirtSource({ uri, scratchDir }),
    imageOf,
    guestIO: async (key, command) => {
      const device = `/machine/peripheral/ua-${key}/virtio-backend`;
      const said = await virsh('qemu-monitor-command', vmId, '--hmp', `qemu-io -d ${device} "${command}"`);
      if (said.trim() !== '') throw new Error(`qemu-io -d ${device} "${command}" said: ${said}`);
    },
    define: async (wanted) => {
      const file = join(directory, 'domain.xml');
      const elements = wanted.map((disk) => diskXml(disk, imageOf(disk.key))).join('\n');
      const scsi = wanted.find(({ target }) => target.startsWith('sd'));
      const controller = scsi ? scsiControllerXml(scsi) : '';
      await writeFile(file, domainXml(name, vmId, elements + controller + extraXml));
      await virsh('define', file);
    },
    exchange: (key, otherKey) => {
      const [one, other, aside] = [`'${imageOf(key)}'`, `'${imageOf(otherKey)}'`, "'aside'"];
      return edit((xml) => xml.replaceAll(one, aside).replaceAll(other, one).replaceAll(aside, other));
    },
    useImage: (key, file) => edit((xml) => xml.replaceAll(`'${imageOf(key)}'`, `'${file}'`)),
    dispose: async () => {
      await virsh('destroy', vmId).catch(() => '');
      await virsh('undefine', vmId, '--checkpoints-metadata').catch(() => '');
      await rm(directory, { recursive: true, force: true });
    },
  };
  try {
    await domain.define(disks);
    return domain;
  } catch (error) {
    await domain.dispose();
    throw error;
  }
}

/** Defines and starts one. */
export async function startBiosDomain(
  disks: BiosDisk[],
  extraXml = '',
  name = badName(),
  uri = systemUri,
): Promise<BiosDomain> {
  const domain = await defineBiosDomain(disks, extraXml, name, uri);
  try {
    await virshAt(uri, 'start', domain.vmId);
    return domain;
  } catch (error) {
    await domain.dispose();
    throw error;
  }
}

/** As a power button that a guest obeys: QEMU ends in good order, so that it stores its bitmaps. */
export async function shutDown(vmId: string): Promise<void> {
  await virsh('destroy', vmId, '--graceful'); // SIGTERM: QEMU closes its images
}

/** The process that is this VM. */
export async function qemuPid(vmId: string): Promise<number> {
  for (const pid of (await readdir('/proc')).map(Number).filter(Boolean)) {
    const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (words[0]?.includes('qemu-system') && words[words.indexOf('-uuid') + 1] === vmId) return pid;
  }
  throw new Error(`no QEMU runs VM ${vmId}`);
}

/** The fixture for the suite that all connectors run. */
export async function biosFixture(): Promise<SourceFixture> {
  const disks = [
    { key: 'contract-a', target: 'vda', sizeBytes: 4 * 1024 * 1024 },
    { key: 'vdb', target: 'vdb', sizeBytes: 3 * 1024 * 1024 + 512 * 3 },
  ];
  const { source, name, vmId, guestIO, exchange, dispose } = await startBiosDomain(disks);
  return {
    source,
    exchangeDisks: async () => {
      await shutDown(vmId);
      await exchange('contract-a', 'vdb');
      await virsh('start', vmId);
    },
    vmName: name,
    disks,
    write: (key, offset, length, pattern) => guestIO(key, `write -P ${pattern} ${offset} ${length}`),
    zero: (key, offset, length) => guestIO(key, `write -z -u ${offset} ${length}`),
    dispose,
  };
}

/** The alias names the device in QEMU, whatever its place; libvirt wants `ua-` before those that it did not choose. */
function diskXml({ key, target, format, hasIothread }: BiosDisk, file: string): string {
  const bus = target.startsWith('sd') ? 'scsi' : 'virtio';
  const iothread = hasIothread && bus === 'virtio' ? " iothread='1'" : '';
  return `<disk type='file' device='disk'>
    <driver name='qemu' type='${format ?? 'qcow2'}' discard='unmap'${iothread}/><source file='${file}'/>
    <target dev='${target}' bus='${bus}'/>${key === target ? '' : `<serial>${key}</serial>`}<alias name='ua-${key}'/>
  </disk>`;
}

function scsiControllerXml({ hasIothread }: BiosDisk): string {
  const driver = hasIothread ? "<driver iothread='1'/>" : '';
  return `<controller type='scsi' index='0' model='virtio-scsi'>${driver}</controller>`;
}

/** Type `qemu` is emulation, which works everywhere. */
function domainXml(name: string, vmId: string, disks: string): string {
  return `<domain type='qemu'><name>${name.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</name><uuid>${vmId}</uuid>
    <memory unit='MiB'>32</memory><vcpu>1</vcpu>${disks.includes(" iothread='1'") ? '<iothreads>1</iothreads>' : ''}
    <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
    <devices>${disks}<controller type='usb' model='none'/><memballoon model='none'/></devices>
  </domain>`;
}
