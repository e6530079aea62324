import { randomUUID } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemUri } from '../../demo/libvirtd.js';
import { runOrThrow } from '../../src/process/run.js';
import type { SourceFixture } from '../contract/source-fixture.js';
import { createLibvirtSource } from '../../src/sources/libvirt/source.js';
import type { Source } from '../../src/sources/source.js';

export interface BiosDisk {
  target: string;
  /** A multiple of 512. */
  sizeBytes: number;
  serial?: string;
  format?: 'qcow2' | 'raw';
  /** Elements to add to the disk, such as `<readonly/>`. */
  extraXml?: string;
}

/** A real QEMU under libvirt that finds nothing to boot: only the test writes to its disks. */
export interface BiosDomain {
  name: string;
  vmId: string;
  directory: string;
  scratchDir: string;
  source: Source;
  virsh: (...args: string[]) => Promise<string>;
  /** What the guest would do; `command` is qemu-io's. Returns when it is done. */
  guestIO: (target: string, command: string) => Promise<void>;
  imageOf: (target: string) => string;
  define: (order?: 'reversed') => Promise<void>;
  dispose: () => Promise<void>;
}

/** Runs virsh on the system's libvirt. */
export async function virsh(...args: string[]): Promise<string> {
  // 60 s: twice what libvirt waits for its state change lock.
  return (await runOrThrow('virsh', ['-q', '-c', systemUri, ...args], { timeoutMs: 60_000 })).stdout;
}

/** Defines and starts one. `cdroms` are XML of further disks that are not plain ones. */
export async function startBiosDomain(disks: BiosDisk[], extraDisksXml = ''): Promise<BiosDomain> {
  const directory = await mkdtemp(join(tmpdir(), 'backupvm-libvirt-'));
  await chmod(directory, 0o755);
  const name = `backupvm-test-${randomUUID().slice(0, 8)}`;
  const vmId = randomUUID();
  const scratchDir = join(directory, 'scratch');
  const imageOf = (target: string) => join(directory, `${target}.img`);
  for (const { target, sizeBytes, format } of disks) {
    const args = ['create', '-q', '-f', format ?? 'qcow2', imageOf(target), String(sizeBytes)];
    await runOrThrow('qemu-img', args, { timeoutMs: 30_000 });
  }

  const define = async (order?: 'reversed') => {
    const elements = disks.map((disk) => diskXml(disk, imageOf(disk.target)));
    if (order === 'reversed') elements.reverse();
    const file = join(directory, 'domain.xml');
    await writeFile(file, domainXml(name, vmId, elements.join('\n') + extraDisksXml));
    await virsh('define', file);
  };
  const guestIO = async (target: string, command: string) => {
    // The alias and not the target names the device in QEMU: a user alias keeps it independent of the order.
    const device = `/machine/peripheral/ua-${target}/virtio-backend`;
    const said = await virsh('qemu-monitor-command', vmId, '--hmp', `qemu-io -d ${device} "${command}"`);
    if (said.trim() !== '') throw new Error(`qemu-io -d ${device} "${command}" said: ${said}`);
  };
  const dispose = async () => {
    await virsh('destroy', vmId).catch(() => '');
    await virsh('undefine', vmId, '--checkpoints-metadata').catch(() => '');
    await rm(directory, { recursive: true, force: true });
  };

  try {
    await define();
    await virsh('start', vmId);
  } catch (error) {
    await dispose();
    throw error;
  }
  const source = createLibvirtSource({ uri: systemUri, scratchDir });
  return { name, vmId, directory, scratchDir, source, virsh, guestIO, imageOf, define, dispose };
}

/** The fixture for the suite that all connectors run. */
export async function biosFixture(): Promise<SourceFixture> {
  const disks = [
    { target: 'vda', sizeBytes: 4 * 1024 * 1024, serial: 'contract-a' },
    { target: 'vdb', sizeBytes: 3 * 1024 * 1024 + 512 * 3 },
  ];
  const domain = await startBiosDomain(disks);
  const targetOf = (key: string) => disks.find((disk) => (disk.serial ?? disk.target) === key)?.target ?? key;
  return {
    source: domain.source,
    vmName: domain.name,
    disks: disks.map(({ target, serial, sizeBytes }) => ({ key: serial ?? target, sizeBytes })),
    write: (key, offset, length, pattern) => domain.guestIO(targetOf(key), `write -P ${pattern} ${offset} ${length}`),
    zero: (key, offset, length) => domain.guestIO(targetOf(key), `write -z -u ${offset} ${length}`),
    dispose: domain.dispose,
  };
}

function diskXml({ target, serial, format, extraXml }: BiosDisk, file: string): string {
  return `<disk type='file' device='disk'>
    <driver name='qemu' type='${format ?? 'qcow2'}' discard='unmap'/><source file='${file}'/>
    <target dev='${target}' bus='virtio'/>${serial ? `<serial>${serial}</serial>` : ''}${extraXml ?? ''}
    <alias name='ua-${target}'/>
  </disk>`;
}

/** Type `qemu` is emulation, which works everywhere. */
function domainXml(name: string, vmId: string, disks: string): string {
  return `<domain type='qemu'><name>${name}</name><uuid>${vmId}</uuid>
    <memory unit='MiB'>32</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
    <on_crash>destroy</on_crash>
    <devices>${disks}<controller type='usb' model='none'/><memballoon model='none'/></devices>
  </domain>`;
}
