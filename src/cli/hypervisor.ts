import { Option, type Command } from 'commander';
import type { Config } from '../config/config.js';
import { addHypervisor, listHypervisors, removeHypervisor, type HypervisorKind } from '../db/hypervisors.js';
import { BackupError } from '../domain/errors.js';
import { createSource } from '../sources/connect.js';
import { addCommand, addGroup, parseName } from './command.js';
import { withDatabase } from './connect.js';
import { formatTable, printable } from './format.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface AddOptions extends CommonOptions {
  kind: HypervisorKind;
  uri: string;
  host?: string;
}

// libvirt answers at once or not at all; a QMP socket that another client holds never does
const answerTimeoutMs = 30_000;

export function addHypervisorCommands(program: Command, terminal: Terminal): void {
  const group = addGroup(program, 'hypervisor', 'Register where VMs run');
  addCommand(
    group,
    'add',
    'Register a hypervisor, after a look whether it answers',
    'hypervisor add local --kind libvirt --uri qemu:///system',
  )
    .argument('<name>', 'name to register it under', parseName)
    .addOption(
      new Option('--kind <kind>', 'how to talk to it, required').choices(['libvirt', 'qmp']).makeOptionMandatory(),
    )
    .requiredOption('--uri <uri>', 'required; such as qemu:///system, or qmp:///run/vms: a directory of QMP sockets')
    .option('--host <host>', 'the host whose worker reads from it (default: this one)')
    .action(async (name: string, options: AddOptions) => print(terminal, options, await add(terminal, name, options)));

  addCommand(group, 'list', 'List the registered hypervisors', 'hypervisor list').action(
    async (options: CommonOptions) => {
      const rows = await withDatabase(terminal, listHypervisors);
      const hypervisors = rows.map(({ id, name, kind, uri, host }) => ({ id, name, kind, uri, host }));
      const text =
        rows.length === 0
          ? `No hypervisor is registered; add one with 'backupvm hypervisor add'`
          : formatTable(
              ['NAME', 'KIND', 'URI', 'HOST'],
              rows.map(({ name, kind, uri, host }) => [name, kind, uri, host]),
              { colours: hasColours(terminal) },
            );
      print(terminal, options, { document: { hypervisors }, text });
    },
  );

  addCommand(group, 'remove', 'Forget a hypervisor that has no backups recorded', 'hypervisor remove local')
    .argument('<name>', 'its registered name')
    .action(async (name: string, options: CommonOptions) => {
      await withDatabase(terminal, (db) => removeHypervisor(db, name));
      print(terminal, options, { document: { removed: name }, text: `Hypervisor '${printable(name)}' removed` });
    });
}

async function add(terminal: Terminal, name: string, { kind, uri, host: givenHost }: AddOptions) {
  // The URI is shown in lists and messages, and other programs see it among our arguments.
  if (/^[^/]*:\/\/[^/@]*:[^/@]*@/.test(uri)) {
    throw new BackupError(
      'InvalidInput',
      `Expected the URI of hypervisor '${name}' without a password; for libvirt, put it into its auth.conf`,
    );
  }
  return withDatabase(terminal, async (db, config) => {
    const host = givenHost ?? config.host;
    const found = host === config.host ? await countVMs(kind, uri, config) : null;
    const { id } = await addHypervisor(db, { name, kind, uri, host });
    const checked = found === null ? `not checked from here: it is read on host '${host}'` : `it has ${found} VM(s)`;
    return {
      document: { hypervisor: { id, name, kind, uri, host }, vmCount: found },
      text: `Hypervisor '${name}' registered on host '${host}'; ${checked}`,
    };
  });
}

async function countVMs(kind: HypervisorKind, uri: string, { scratchDir }: Config): Promise<number> {
  const vms = await createSource({ kind, uri }, scratchDir).listVMs(AbortSignal.timeout(answerTimeoutMs));
  return vms.length;
}
