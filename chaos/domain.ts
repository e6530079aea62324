import { setTimeout as wait } from 'node:timers/promises';
import { runOrThrow } from '../src/process/run.js';
import { qemuPid, startBiosDomain, virshAt, type BiosDomain } from '../test/libvirt/bios-domain.js';
import type { Lab } from '../test/support/lab.js';
import type { Libvirt } from './libvirt.js';
import { readAll, type DiskSize, type Machine } from './machine.js';
import { patiently } from './run.js';
import { send } from './victims.js';

export const libvirtName = 'libvirt';

/** Starts a VM under libvirt, whose QEMU finds nothing to boot. */
export async function startDomain(lab: Lab, { uri }: Libvirt, name: string, disks: DiskSize[]): Promise<Machine> {
  const targets = disks.map((disk, index) => ({ ...disk, target: `vd${'abc'[index]}` }));
  const domain = await patiently(async () => {
    // Of an attempt in whose middle libvirtd was killed.
    await virshAt(uri, 'destroy', name).catch(() => '');
    await virshAt(uri, 'undefine', name).catch(() => '');
    return startBiosDomain(targets, '', name, uri);
  });
  const { vmId } = domain;
  const pidOf = () => qemuPid(vmId).catch(() => undefined);

  /** Again until it is done: while libvirtd is away nobody knows whether it was, and what is written stays the same. */
  const guestIO = async (key: string, command: string) =>
    patiently(async () => {
      if ((await pidOf()) !== undefined) return domain.guestIO(key, command);
    });
  async function kill(): Promise<void> {
    for (let pid = await pidOf(); pid !== undefined; pid = await pidOf()) {
      send(pid);
      await wait(10);
    }
  }

  return {
    hypervisor: libvirtName,
    write: (key, offset, length, pattern) => guestIO(key, `write -P ${pattern} ${offset} ${length}`),
    zero: (key, offset, length) => guestIO(key, `write -z -u ${offset} ${length}`),
    kill,
    async startAnew(killAgain) {
      await killAgain();
      const contents = await readAll(lab, name, disks, async (key, file) => {
        const args = ['convert', '-f', 'qcow2', '-O', 'raw', domain.imageOf(key), file];
        await runOrThrow('qemu-img', args, { timeoutMs: 30_000 });
      });
      await patiently(async () => {
        const state = await stateOf(uri, domain);
        if (state === 'shut off') await virshAt(uri, 'start', vmId);
        // libvirt may not have noticed yet that the one before is dead, and ends one that it had not started whole.
        else if (state !== 'running' || (await pidOf()) === undefined) throw new Error(`${name} is ${state}`);
      });
      return contents;
    },
    leftovers: async () => (await findLeftovers(lab, uri, domain)).map((found) => `${name}: ${found}`),
    stop: () =>
      patiently(async () => {
        await domain.dispose();
        if ((await pidOf()) !== undefined) throw new Error(`${name} still runs`);
      }),
  };
}

const stateOf = async (uri: string, { vmId }: BiosDomain) => (await virshAt(uri, 'domstate', vmId)).trim();

/** A VM that does not run, a backup job, and checkpoints that are not those of the points the next incrementals start from. */
async function findLeftovers(lab: Lab, uri: string, domain: BiosDomain): Promise<string[]> {
  const { vmId } = domain;
  const { rows } = await lab.database.pool.query<{ name: string }>(
    `select distinct d.change_id as name from backup_disks d join vm_backup_contexts c on c.id = d.context_id
     where c.vm_id = $1 and d.is_head and d.change_id is not null`,
    [vmId],
  );
  const expected = rows.map(({ name }) => name);
  const found = (await virshAt(uri, 'checkpoint-list', vmId, '--name')).split(/\s+/).filter(Boolean);
  const [state, job] = [await stateOf(uri, domain), await virshAt(uri, 'domjobinfo', vmId)];
  return [
    ...(state === 'running' ? [] : [`expected it running, found it ${state}`]),
    ...(/Job type: +None/.test(job) ? [] : [`an open job: ${job.trim()}`]),
    ...found.filter((name) => !expected.includes(name)).map((name) => `checkpoint ${name} of no restore point`),
    ...expected.filter((name) => !found.includes(name)).map((name) => `checkpoint ${name} is gone`),
  ];
}
