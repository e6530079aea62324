import { XMLParser } from 'fast-xml-parser';

/** What the definition of one disk says beyond its key: why another file must not take its image's place, and what it reads. */
export interface DiskDefinition {
  target: string;
  /** Of the image itself; null where it is no file, or of no stated format. */
  file: string | null;
  format: string | null;
  /** A fact and a next step, for people; null where a complete image may take the place of this one. */
  obstacle: string | null;
  isEncrypted: boolean;
  /** Every file that the definition names: the image, backing files, mirrors, external data. */
  files: string[];
  /** Images that lie in a storage pool. */
  volumes: { pool: string; volume: string }[];
}

type Element = Record<string, unknown>;

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  parseAttributeValue: false,
});

/** Reads every `<disk>` of a definition, drives with removable media included. */
export function readDiskDefinitions(xml: string): DiskDefinition[] {
  const domain = childrenOf(parser.parse(xml), 'domain')[0];
  const vm = typeof domain?.['name'] === 'string' ? domain['name'] : '';
  const disks = childrenOf(domain, 'devices').flatMap((devices) => childrenOf(devices, 'disk'));
  return disks.map((disk) => {
    const sources = findAll(disk, 'source');
    const target = attributeOf(childrenOf(disk, 'target')[0], 'dev') ?? '';
    return {
      target,
      file: attributeOf(childrenOf(disk, 'source')[0], 'file') ?? null,
      format: attributeOf(childrenOf(disk, 'driver')[0], 'type') ?? null,
      obstacle: obstacleOf(disk, `'${vm}' ${target}`),
      isEncrypted: findAll(disk, 'encryption').length > 0,
      files: sources.flatMap((source) => attributeOf(source, 'file') ?? []),
      volumes: sources.flatMap((source) => {
        const [pool, volume] = [attributeOf(source, 'pool'), attributeOf(source, 'volume')];
        return pool === undefined || volume === undefined ? [] : [{ pool, volume }];
      }),
    };
  });
}

/** The targets of the disks that QEMU decrypts for the guest, and so for us. */
export function encryptedTargets(xml: string): Set<string> {
  return new Set(readDiskDefinitions(xml).flatMap(({ target, isEncrypted }) => (isEncrypted ? [target] : [])));
}

const elsewhere = 'restore to a new VM or to files instead';

/** The definition stays as it is when an image is replaced, so all that it says of the old image would be said of the new one. */
function obstacleOf(disk: Element, virshName: string): string | null {
  const backing = childrenOf(disk, 'backingStore').find((store) => childrenOf(store, 'source').length > 0);
  if (backing) {
    const base = attributeOf(childrenOf(backing, 'source')[0], 'file');
    return `its definition names a backing file${base === undefined ? '' : ` (${base})`}, which would show through where the restored disk holds zeros; merge it with 'virsh blockcommit ${virshName} --active --pivot' while the VM runs, or ${elsewhere}`;
  }
  if (findAll(disk, 'encryption').length > 0) {
    return `its definition says that it is encrypted, and a restored disk is not; ${elsewhere}`;
  }
  if (childrenOf(disk, 'mirror').length > 0) {
    return `a block job copies it to another image; end it with 'virsh blockjob ${virshName} --abort', or ${elsewhere}`;
  }
  if (findAll(disk, 'dataStore').length > 0) {
    return `its definition names an external data file, which a restored disk does not have; ${elsewhere}`;
  }
  if (findAll(disk, 'slices').length > 0) return `it is only a part of its file; ${elsewhere}`;
  if (childrenOf(disk, 'transient').length > 0) {
    return `it is transient, so that the VM discards what was restored at its next stop; ${elsewhere}`;
  }
  if (childrenOf(disk, 'shareable').length > 0) {
    return `it is shareable, so that another VM may have it open; ${elsewhere}`;
  }
  return null;
}

/** The child elements of one name. An empty element is parsed as a text. */
function childrenOf(element: unknown, name: string): Element[] {
  if (!isElement(element) || element[name] === undefined) return [];
  const found: unknown = element[name];
  return (Array.isArray(found) ? (found as unknown[]) : [found]).map((child) => (isElement(child) ? child : {}));
}

/** The elements of one name at any depth. */
function findAll(element: unknown, name: string): Element[] {
  if (!isElement(element)) return [];
  const names = Object.keys(element).filter((key) => !key.startsWith('@'));
  return names.flatMap((key) =>
    childrenOf(element, key).flatMap((child) => [...(key === name ? [child] : []), ...findAll(child, name)]),
  );
}

function attributeOf(element: Element | undefined, name: string): string | undefined {
  const value = element?.[`@${name}`];
  return typeof value === 'string' ? value : undefined;
}

function isElement(value: unknown): value is Element {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
