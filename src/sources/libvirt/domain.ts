import { XMLParser } from 'fast-xml-parser';
import { z } from 'zod';
import type { VMState } from '../source.js';

/** One `<disk>` of a domain, as far as backups care. */
export interface DomainDisk {
  key: string;
  target: string;
  tracksChanges: boolean;
  skipReason: string | null;
  /** The image's file, where there is one. */
  file: string | null;
  /** What the `<source>` element names: file, device, volume or network name. */
  source: string;
  /** As the driver element says: `qcow2`, `raw`, … */
  format: string | null;
}

export interface Domain {
  name: string;
  disks: DomainDisk[];
  /** Who QEMU runs as, from the live domain's dac label; null where libvirt does not say. */
  qemuUser: { uid: number; gid: number } | null;
}

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false, // a serial of digits stays text
  parseAttributeValue: false,
  isArray: (_name, path) => ['domain.devices.disk', 'domain.seclabel'].includes(String(path)),
});

const present = z.unknown().optional();
const diskSchema = z.object({
  '@type': z.string().optional(),
  '@device': z.string().optional(),
  driver: z.object({ '@type': z.string().optional() }).optional().catch(undefined),
  source: z.record(z.string(), z.unknown()).optional().catch(undefined),
  target: z.object({ '@dev': z.string() }),
  serial: z.string().optional(),
  wwn: z.string().optional(),
  readonly: present,
});
const domainSchema = z.object({
  domain: z.object({
    name: z.string(),
    devices: z.object({ disk: z.array(diskSchema).optional() }),
    seclabel: z.array(z.object({ '@model': z.string().optional(), label: z.string().optional() })).optional(),
  }),
});

type DiskElement = z.infer<typeof diskSchema>;

/** Reads what `virsh dumpxml` prints. Disks keep the XML's order, but nothing about one depends on it. */
export function parseDomain(xml: string): Domain {
  const { domain } = domainSchema.parse(parser.parse(xml));
  const elements = domain.devices.disk ?? [];
  const keys = keysOf(elements);
  return {
    name: domain.name,
    qemuUser: userOf((domain.seclabel ?? []).find((label) => label['@model'] === 'dac')?.label),
    disks: elements.map((element, index) => {
      const skipReason = skipReasonOf(element);
      const file = element.source?.['@file'];
      return {
        key: keys[index] ?? element.target['@dev'],
        target: element.target['@dev'],
        tracksChanges: skipReason === null && element.driver?.['@type'] === 'qcow2', // bitmaps live in QCOW2 files
        skipReason,
        file: typeof file === 'string' ? file : null,
        source: sourceOf(element),
        format: element.driver?.['@type'] ?? null,
      };
    }),
  };
}

/** Serial, else WWN, else target. A key that two disks claim says nothing, so all its claimants go by their target. */
function keysOf(elements: readonly DiskElement[]): string[] {
  let keys = elements.map((element) => element.serial || element.wwn || element.target['@dev']);
  for (;;) {
    const claims = new Map<string, number>();
    for (const key of keys) claims.set(key, (claims.get(key) ?? 0) + 1);
    if (claims.size === keys.length) return keys;
    const next = keys.map((key, index) =>
      (claims.get(key) ?? 0) > 1 ? (elements[index]?.target['@dev'] ?? key) : key,
    );
    // Targets are unique within a domain; should libvirt ever say otherwise, there is nothing left to fall back to.
    if (next.every((key, index) => key === keys[index])) return keys;
    keys = next;
  }
}

/** The parts of `<source>` that say which image it is; others, such as `index`, change from start to start. */
function sourceOf({ '@type': type = 'file', source = {} }: DiskElement): string {
  const parts = Object.entries(source)
    .filter(([name]) => name.startsWith('@') && !['@index', '@startupPolicy'].includes(name))
    .map(([name, value]) => `${name.slice(1)}=${String(value)}`);
  const nested = ['host', 'address', 'slices']
    .filter((name) => name in source)
    .map((name) => `${name}=${JSON.stringify(source[name])}`);
  return [type, ...parts.sort(), ...nested].join(' ');
}

function skipReasonOf(element: DiskElement): string | null {
  const device = element['@device'] ?? 'disk';
  if (device === 'cdrom') return 'CD-ROM';
  if (device === 'floppy') return 'floppy';
  if (device === 'lun') return 'raw passthrough';
  if (element['@type'] === 'vhostuser') return 'vhost-user';
  if (element.readonly !== undefined) return 'read-only';
  if (element.source === undefined) return 'no medium';
  return null;
}

/** `+64055:+64055` is how libvirt writes a numeric owner. */
function userOf(label: string | undefined): { uid: number; gid: number } | null {
  const match = /^\+?(\d+):\+?(\d+)$/.exec(label ?? '');
  return match ? { uid: Number(match[1]), gid: Number(match[2]) } : null;
}

/** The state in what `virsh domstate` or `virsh domstats --state` say. */
export function stateOf(word: string): VMState {
  if (['running', 'idle', 'blocked', '1', '2'].includes(word)) return 'running';
  if (['paused', '3'].includes(word)) return 'paused';
  if (['shut off', '5'].includes(word)) return 'shut off';
  return 'other';
}
