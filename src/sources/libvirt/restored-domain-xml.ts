import { XMLBuilder, XMLParser } from 'fast-xml-parser';
import { BackupError } from '../../domain/errors.js';
import type { VMDefinition } from '../source.js';
import { parseDomain } from './domain.js';

/** One element as the parser keeps it in order: its name holds what is in it, `:@` its attributes. */
type Node = Record<string, unknown>;

const options = {
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  parseAttributeValue: false,
};
const parser = new XMLParser(options);
const builder = new XMLBuilder({ ...options, suppressEmptyNode: true, format: true });

const nameOf = (node: Node): string => Object.keys(node).find((key) => key !== ':@') ?? '';
const childrenOf = (node: Node): Node[] => {
  const children = node[nameOf(node)];
  return Array.isArray(children) ? (children as Node[]) : []; // a text has none
};
const attributesOf = (node: Node): Record<string, string> => (node[':@'] ?? {}) as Record<string, string>;
const childOf = (node: Node, name: string): Node | undefined =>
  childrenOf(node).find((child) => nameOf(child) === name);
const text = (value: string): Node => ({ '#text': value });
const element = (name: string, attributes: Record<string, string>, children: Node[] = []): Node => ({
  [name]: children,
  ':@': attributes,
});

/** The same element with other children. */
const withChildren = (node: Node, children: Node[]): Node => ({ ...node, [nameOf(node)]: children });
const without = (node: Node, ...names: string[]): Node =>
  withChildren(
    node,
    childrenOf(node).filter((child) => !names.includes(nameOf(child))),
  );

const leavingOut = (attributes: Record<string, string>, ...names: string[]): Record<string, string> =>
  Object.fromEntries(Object.entries(attributes).filter(([name]) => !names.includes(name)));

/**
 * The definition of a restored VM: the one that its restore point keeps, with another name and id, these disks alone, empty
 * drives, and nothing in it that only one VM may have: MAC addresses, sockets, logs, firmware variables.
 */
export function restoredDomainXml(definition: VMDefinition): string {
  const document = parser.parse(definition.vmConfig) as Node[];
  const domain = document.find((node) => nameOf(node) === 'domain');
  if (!domain)
    throw new BackupError('PointDamaged', 'Expected the definition of a VM in the restore point, found none');
  const oldName = parseDomain(definition.vmConfig).name;
  const kept = childrenOf(domain).filter((child) => !['name', 'uuid'].includes(nameOf(child)));
  const edited = kept.flatMap((child) => editChild(child, definition, oldName));
  const attributes = leavingOut(attributesOf(domain), 'id'); // of the process that ran then
  const renamed = [withText('name', definition.name), withText('uuid', definition.vmId), ...edited];
  return builder.build([element('domain', attributes, renamed)]);
}

const withText = (name: string, value: string): Node => ({ [name]: [text(value)] });

function editChild(child: Node, definition: VMDefinition, oldName: string): Node[] {
  switch (nameOf(child)) {
    case 'genid':
      return [{ genid: [] }]; // libvirt makes a new one: guests learn by it that they are a copy
    case 'sysinfo':
      return [editSystemInfo(child, definition.vmId)];
    case 'os':
      return [withChildren(child, childrenOf(child).map(resetFirmwareVariables))];
    case 'seclabel':
      return attributesOf(child)['type'] === 'dynamic' ? [] : [child]; // of the process that ran then
    case 'devices': {
      const devices = childrenOf(child).flatMap((device) => editDevice(device, definition, oldName));
      return [withChildren(child, devices)];
    }
    default:
      return [child];
  }
}

/** libvirt refuses a system UUID that is not the domain's. */
function editSystemInfo(sysinfo: Node, vmId: string): Node {
  const groups = childrenOf(sysinfo).map((group) => {
    const entries = childrenOf(group).map((entry) =>
      attributesOf(entry)['name'] === 'uuid' ? withChildren(entry, [text(vmId)]) : entry,
    );
    return withChildren(group, entries);
  });
  return withChildren(sysinfo, groups);
}

/** Two VMs must not write to one file of firmware variables: without a path, libvirt makes one from its template. */
function resetFirmwareVariables(child: Node): Node {
  if (nameOf(child) !== 'nvram') return child;
  const { template, templateFormat, format } = attributesOf(child);
  const attributes = Object.entries({ template, templateFormat, format }).filter(([, value]) => value !== undefined);
  return element('nvram', Object.fromEntries(attributes) as Record<string, string>);
}

function editDevice(device: Node, definition: VMDefinition, oldName: string): Node[] {
  switch (nameOf(device)) {
    case 'disk':
      return editDisk(device, definition);
    case 'interface':
      return [editInterface(device)];
    case 'console':
      // libvirt adds the one that stands for the first serial port by itself, as that port is now.
      return attributesOf(childOf(device, 'target') ?? {})['type'] === 'serial'
        ? []
        : [editCharacterDevice(device, definition.name, oldName)];
    case 'channel':
    case 'serial':
    case 'parallel':
      return [editCharacterDevice(device, definition.name, oldName)];
    case 'graphics':
      return [editGraphics(device)];
    default:
      return [device];
  }
}

function editDisk(device: Node, { disks, vmConfig }: VMDefinition): Node[] {
  const target = attributesOf(childOf(device, 'target') ?? {})['dev'];
  const kind = attributesOf(device)['device'] ?? 'disk';
  if (kind === 'cdrom' || kind === 'floppy') {
    return [{ ...without(device, 'source', 'backingStore', 'auth'), ':@': { ...attributesOf(device), type: 'file' } }];
  }
  const key = parseDomain(vmConfig).disks.find((disk) => disk.target === target)?.key;
  const restored = disks.find((disk) => disk.key === key);
  if (!restored) return [];
  const driver = { ...attributesOf(childOf(device, 'driver') ?? {}), name: 'qemu', type: restored.format };
  const rest = childrenOf(without(device, 'driver', 'source', 'backingStore', 'mirror', 'auth', 'encryption', 'alias'));
  const children = [element('driver', driver), element('source', { file: restored.file }), ...rest];
  return [element('disk', { ...attributesOf(device), type: 'file' }, children)];
}

/** Without an address libvirt makes a new one. What the network gave the VM that ran is not the new one's. */
function editInterface(device: Node): Node {
  const children = childrenOf(without(device, 'mac', 'alias')).flatMap((child) => {
    if (nameOf(child) === 'target' && /^(vnet|macvtap|macvlan)\d/.test(attributesOf(child)['dev'] ?? '')) return [];
    if (nameOf(child) !== 'source' || attributesOf(device)['type'] !== 'network') return [child];
    return [element('source', leavingOut(attributesOf(child), 'portid', 'bridge'), childrenOf(child))];
  });
  return withChildren(device, children);
}

/**
 * A socket, a log or a terminal belongs to one VM. A path that holds the old name gets the new one; a socket of a channel goes,
 * so that libvirt makes one; any other path becomes a terminal, which libvirt chooses, too.
 */
function editCharacterDevice(device: Node, newName: string, oldName: string): Node {
  const type = attributesOf(device)['type'];
  const source = childOf(device, 'source');
  const bare = without(device, 'source', 'log', 'alias');
  if (type === 'pty') return { ...bare, ':@': { type: 'pty' } }; // `tty` names the old terminal, too
  if (type === 'unix' && nameOf(device) === 'channel') return bare;
  if (type !== 'unix' && type !== 'file') return without(device, 'alias');
  const path = attributesOf(source ?? {})['path'];
  const slash = (path?.lastIndexOf('/') ?? -1) + 1;
  const file = path?.slice(slash) ?? '';
  if (!source || path === undefined || !file.includes(oldName)) return { ...bare, ':@': { type: 'pty' } };
  const renamed = path.slice(0, slash) + file.replaceAll(oldName, newName.replaceAll('/', '_'));
  const children = [element('source', { ...attributesOf(source), path: renamed }, childrenOf(source))];
  return withChildren(bare, [...children, ...childrenOf(bare)]);
}

/** A port that libvirt chose, and a socket in the VM's own folder, are chosen anew. */
function editGraphics(device: Node): Node {
  const isAutomatic = attributesOf(device)['autoport'] === 'yes';
  const attributes = leavingOut(
    attributesOf(device),
    'socket',
    ...(isAutomatic ? ['port', 'tlsPort', 'websocket'] : []),
  );
  const children = childrenOf(device).map((child) => {
    if (nameOf(child) !== 'listen') return child;
    return element('listen', leavingOut(attributesOf(child), 'socket'), childrenOf(child));
  });
  return element('graphics', attributes, children);
}
