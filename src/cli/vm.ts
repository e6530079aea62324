import type { Command } from 'commander';
import type { Config } from '../config/config.js';
import type { Database, Queryable } from '../db/database.js';
import { chooseHypervisor, listHypervisors, type Hypervisor } from '../db/hypervisors.js';
import { lastPoints, type LastPoint } from '../db/jobs.js';
import { BackupError } from '../domain/errors.js';
import { createSource } from '../sources/connect.js';
import type { VMDescription } from '../sources/source.js';
import { formatBytes } from '../domain/format-bytes.js';
import { addCommand, addGroup } from './command.js';
import { withDatabase } from './connect.js';
import { addForgetCommand } from './forget-vm.js';
import { formatTable, formatTime } from './format.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface ListOptions extends CommonOptions {
  hypervisor?: string;
}

interface ListedVM extends VMDescription {
  hypervisor: string;
  lastPoint: LastPoint | null;
}

export function addVMCommands(program: Command, terminal: Terminal): void {
  const group = addGroup(program, 'vm', 'Look at VMs, and forget what backups made on them');
  addForgetCommand(group, terminal);
  addCommand(group, 'list', 'List the VMs of this host with their disks and last restore points', 'vm list')
    .option('--hypervisor <name>', 'only those of one hypervisor (default: all on this host)')
    .action(async (options: ListOptions) => {
      const { vms, elsewhere } = await withDatabase(terminal, async (db, config) => {
        const { here, elsewhere } = await chooseHypervisors(db, config, options.hypervisor);
        const perHypervisor = await Promise.all(here.map((hypervisor) => listVMs(db, config, hypervisor)));
        return { vms: perHypervisor.flat(), elsewhere };
      });
      const note = elsewhere.map(({ name, host }) => `Hypervisor '${name}' is read on host '${host}': not listed here`);
      const text = vms.length === 0 ? 'No VM found' : listText(vms, terminal);
      print(terminal, options, { document: { vms }, text: [text, ...note].join('\n') });
    });
}

async function chooseHypervisors(
  db: Queryable,
  { host }: Config,
  name: string | undefined,
): Promise<{ here: Hypervisor[]; elsewhere: Hypervisor[] }> {
  const all = name === undefined ? await listHypervisors(db) : [await chooseHypervisor(db, name)];
  const here = all.filter((hypervisor) => hypervisor.host === host);
  const elsewhere = all.filter((hypervisor) => hypervisor.host !== host);
  const [first] = elsewhere;
  if (here.length === 0 && first) {
    throw new BackupError(
      'WrongHost',
      `Hypervisor '${first.name}' is read on host '${first.host}', this is '${host}'; run 'backupvm vm list' there`,
    );
  }
  if (here.length === 0) await chooseHypervisor(db, undefined); // says that none is registered
  return { here, elsewhere };
}

async function listVMs(db: Database, config: Config, hypervisor: Hypervisor): Promise<ListedVM[]> {
  const source = createSource(hypervisor, config.scratchDir);
  // Several calls per VM, each of a few ms; what takes this long hangs.
  const signal = AbortSignal.timeout(120_000);
  const points = await lastPoints(db, hypervisor.id);
  const vms: ListedVM[] = [];
  for (const { name, vmId } of await source.listVMs(signal)) {
    try {
      const lastPoint = points.find((point) => point.vmId === vmId) ?? null;
      vms.push({ ...(await source.describeVM(name, signal)), hypervisor: hypervisor.name, lastPoint });
    } catch (error) {
      // It was deleted or renamed between the two calls.
      if (!(error instanceof BackupError && error.code === 'VMNotFound')) throw error;
    }
  }
  return vms;
}

function listText(vms: readonly ListedVM[], terminal: Terminal): string {
  const rows = vms.flatMap((vm) => {
    const point = vm.lastPoint ? describePoint(vm.lastPoint) : 'none';
    const ofVM = [vm.name, vm.hypervisor, vm.state, point];
    if (vm.disks.length === 0) return [[...ofVM, 'none', '', '', '']];
    return vm.disks.map(({ key, target, sizeBytes, skipReason, tracksChanges }, index) => [
      ...(index === 0 ? ofVM : ['', '', '', '']),
      ...[target, key, skipReason === null ? formatBytes(sizeBytes) : ''],
      skipReason === null
        ? tracksChanges
          ? ''
          : 'fulls only: its changes cannot be recorded'
        : `skipped: ${skipReason}`,
    ]);
  });
  return formatTable(['VM', 'HYPERVISOR', 'STATE', 'LAST POINT', 'DISK', 'KEY', 'SIZE', 'NOTE'], rows, {
    right: ['SIZE'],
    colours: hasColours(terminal),
  });
}

function describePoint({ pointTime, repository, damaged }: LastPoint): string {
  return `${formatTime(pointTime)} in ${repository}${damaged ? ', damaged' : ''}`;
}
