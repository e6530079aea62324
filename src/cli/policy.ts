import type { Command } from 'commander';
import type { Queryable } from '../db/database.js';
import { listPolicies, removePolicy, requireOneVM, setPolicy, type PolicyListing } from '../db/policies.js';
import { chooseRepository } from '../db/repositories.js';
import { BackupError } from '../domain/errors.js';
import { describePolicy, parsePolicy } from '../domain/retention-policy.js';
import { addCommand, addGroup } from './command.js';
import { withDatabase } from './connect.js';
import { formatTable, printable } from './format.js';
import { addPolicyOptions, readPolicyOptions, type PolicyOptions } from './policy-options.js';
import { hasColours, print, type CommonOptions, type Terminal } from './terminal.js';

interface OwnerOptions extends CommonOptions {
  repository?: string;
  hypervisor?: string;
}

export function addPolicyCommands(program: Command, terminal: Terminal): void {
  const group = addGroup(program, 'policy', 'Say how many restore points of a VM stay');
  const set = addCommand(
    group,
    'set',
    'Store how many restore points of a VM stay, in place of an earlier policy; removes nothing',
    'policy set web01 --keep-last 3 --keep-daily 7 --time-zone Europe/Berlin',
  );
  addPolicyOptions(addOwnerOptions(set)).action(async (vm: string, options: OwnerOptions & PolicyOptions) => {
    const policy = parsePolicy(readPolicyOptions(options) ?? {});
    const found = await withDatabase(terminal, async (db) => {
      const listings = await findVM(db, vm, options);
      for (const { contextId } of listings) await setPolicy(db, contextId, policy);
      return listings;
    });
    const policies = found.map((listing) => ({ ...listing, policy }));
    const text = `Policy of VM '${printable(vm)}' in repository '${found[0]?.repository}': ${describePolicy(policy)}`;
    print(terminal, options, { document: { policies }, text });
  });

  addCommand(group, 'show', 'Show the policies of all VMs that have been backed up, or of one', 'policy show web01')
    .argument('[vm]', 'the name of a VM')
    .option('--repository <name>', 'only those in one repository')
    .option('--hypervisor <name>', 'only those of one hypervisor')
    .action(async (vm: string | undefined, { repository, hypervisor, ...options }: OwnerOptions) => {
      const policies = await withDatabase(terminal, async (db) => listPolicies(db, { vm, repository, hypervisor }));
      const rows = policies.map((listing) => [
        ...[listing.vm, listing.repository, listing.hypervisor],
        listing.policy === null ? 'none: nothing is removed' : describePolicy(listing.policy),
      ]);
      const table = formatTable(['VM', 'REPOSITORY', 'HYPERVISOR', 'POLICY'], rows, { colours: hasColours(terminal) });
      print(terminal, options, { document: { policies }, text: rows.length === 0 ? 'No such VM' : table });
    });

  const remove = addCommand(group, 'remove', `Forget a VM's policy: then nothing is removed`, 'policy remove web01');
  addOwnerOptions(remove).action(async (vm: string, options: OwnerOptions) => {
    const removed = await withDatabase(terminal, async (db) => {
      const found = await findVM(db, vm, options);
      const removed = await Promise.all(found.map(({ contextId }) => removePolicy(db, contextId)));
      return removed.includes(true);
    });
    if (!removed) throw new BackupError('NoPolicy', `Expected a policy of VM '${vm}', found none`);
    print(terminal, options, { document: { vm, removed }, text: `Policy of VM '${printable(vm)}' removed` });
  });
}

function addOwnerOptions(command: Command): Command {
  return command
    .argument('<vm>', 'the name of a VM that has been backed up')
    .option('--repository <name>', 'where its backups are (default: the only one registered)')
    .option('--hypervisor <name>', 'where it runs, if VMs of that name run in several places');
}

/** A VM that was made anew under its name has two contexts, and one policy. */
async function findVM(
  db: Queryable,
  vm: string,
  { repository: name, hypervisor }: OwnerOptions,
): Promise<PolicyListing[]> {
  const { name: repository } = await chooseRepository(db, name);
  const found = await listPolicies(db, { vm, repository, hypervisor });
  requireOneVM(vm, repository, found);
  return found;
}
