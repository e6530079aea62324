import { XMLParser } from 'fast-xml-parser';
import { z } from 'zod';
import { iothreadRisk, type QEMUVersion } from '../../domain/iothread-safety.js';
import { tryVirsh, type VirshCall } from './virsh.js';

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseAttributeValue: false,
  isArray: (_name, path) => ['domain.devices.disk', 'domain.devices.controller'].includes(String(path)),
});

/** One iothread (`iothread='1'`), or a mapping of queues to several (`<iothreads>`). */
const driver = z.object({ '@iothread': z.string().optional(), iothreads: z.unknown().optional() }).catch({});
const domainSchema = z.object({
  domain: z.object({
    devices: z.object({
      disk: z
        .array(
          z.object({
            target: z.object({ '@dev': z.string(), '@bus': z.string().optional() }),
            driver: driver.optional(),
            address: z.object({ '@controller': z.string().optional() }).optional().catch(undefined),
          }),
        )
        .optional(),
      controller: z
        .array(z.object({ '@type': z.string(), '@index': z.string().optional(), driver: driver.optional() }))
        .optional(),
    }),
  }),
});

const hasIothread = (of: z.infer<typeof driver> | undefined) =>
  of?.['@iothread'] !== undefined || of?.iothreads !== undefined;

/** The targets of a live definition's disks that an iothread serves: the disk's own, or that of its SCSI controller. */
export function targetsWithIothread(domainXml: string): Set<string> {
  const { devices } = domainSchema.parse(parser.parse(domainXml)).domain;
  const controllers = (devices.controller ?? []).filter((one) => one['@type'] === 'scsi' && hasIothread(one.driver));
  const isBehind = (index: string | undefined) =>
    controllers.some((one) => index === undefined || (one['@index'] ?? '0') === index);
  const found = (devices.disk ?? []).filter(
    ({ driver, target, address }) =>
      hasIothread(driver) || (target['@bus'] === 'scsi' && isBehind(address?.['@controller'])),
  );
  return new Set(found.map(({ target }) => target['@dev']));
}

/** What reading these disks may do to the guest, or null: see `iothreadRisk`. */
export async function findIothreadRisk(
  call: VirshCall,
  vmId: string,
  domainXml: string,
  disks: readonly { key: string; target: string }[],
): Promise<string | null> {
  const targets = targetsWithIothread(domainXml);
  const served = disks.filter(({ target }) => targets.has(target));
  return served.length === 0 ? null : iothreadRisk(served, await runningVersion(call, vmId));
}

/**
 * The version of the QEMU process itself: after an update of the package the installed one is another. libvirt marks a VM whose monitor
 * was asked directly as tainted, so this is asked only where the answer decides.
 */
async function runningVersion(call: VirshCall, vmId: string): Promise<QEMUVersion | null> {
  const command = JSON.stringify({ execute: 'query-version' });
  const outcome = await tryVirsh(call, ['qemu-monitor-command', '--domain', vmId, '--cmd', command]);
  if (!outcome.ok) return null;
  const version = z.object({ major: z.number(), minor: z.number(), micro: z.number() });
  const answer = z.object({ return: z.object({ qemu: version }) }).safeParse(parseJSON(outcome.stdout));
  return answer.success ? answer.data.return.qemu : null;
}

function parseJSON(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
