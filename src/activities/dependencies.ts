import type { Database } from '../db/database.js';
import type { Source } from '../sources/source.js';

/** What activities of this host are made with, once, by the worker. */
export interface HostDependencies {
  db: Database;
  host: string;
  nbdPorts: { first: number; last: number };
  runDir: string;
  /** The connector for a registered hypervisor. */
  createSource: (hypervisor: { kind: 'libvirt' | 'qmp'; uri: string }) => Source;
}
