import type { Database } from '../db/database.js';
import type { Source } from '../sources/source.js';

/** What activities of this host are made with, once, by the worker. */
export interface HostDependencies {
  db: Database;
  host: string;
  /** Of the machine that this worker runs on. */
  machineId: string;
  nbdPorts: { first: number; last: number };
  runDir: string;
  scratchDir: string;
  /** Where restores to files and to new VMs may write. */
  restoreDirs: readonly string[];
  /** How long a copy may stand still before it is ended. */
  stallTimeoutMs: number;
  /** The connector for a registered hypervisor. */
  createSource: (hypervisor: { kind: 'libvirt' | 'qmp'; uri: string }) => Source;
}
