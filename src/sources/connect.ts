import type { Source } from './source.js';
import { createLibvirtSource } from './libvirt/libvirt-source.js';
import { createQMPSource } from './qmp/qmp-source.js';

export interface SourceAddress {
  kind: 'libvirt' | 'qmp';
  uri: string;
}

/** The connector for a registered hypervisor. Does not connect yet. */
export function createSource({ kind, uri }: SourceAddress, scratchDir: string): Source {
  switch (kind) {
    case 'libvirt':
      return createLibvirtSource({ uri, scratchDir });
    case 'qmp':
      return createQMPSource({ uri, scratchDir });
  }
}
