/**
 * Every error that backupvm raises on purpose. `permanent`: trying again cannot help.
 * `exitCode`: what the CLI exits with (the table in docs/cli.md).
 */
export const errorCodes = {
  InvalidInput: { permanent: true, exitCode: 2 },
  InvalidConfiguration: { permanent: true, exitCode: 2 },
  VMNotFound: { permanent: true, exitCode: 3 },
  VMNotRunning: { permanent: true, exitCode: 3 },
  DiskNotFound: { permanent: true, exitCode: 3 },
  HypervisorNotFound: { permanent: true, exitCode: 3 },
  RepositoryNotFound: { permanent: true, exitCode: 3 },
  JobNotFound: { permanent: true, exitCode: 3 },
  PointNotFound: { permanent: true, exitCode: 3 },
  ContextNotFound: { permanent: true, exitCode: 3 },
  /** No disk that a restore replaced and kept has this id. */
  KeptDiskNotFound: { permanent: true, exitCode: 3 },
  AlreadyExists: { permanent: true, exitCode: 4 },
  InUse: { permanent: true, exitCode: 4 },
  BackupAlreadyRunning: { permanent: true, exitCode: 4 },
  /** A hold, or immutability. */
  Protected: { permanent: true, exitCode: 4 },
  /** Others need what was to be deleted. */
  HasDescendants: { permanent: true, exitCode: 4 },
  VMRunning: { permanent: true, exitCode: 4 },
  /** The backup of an encrypted disk would not be encrypted. */
  DiskEncrypted: { permanent: true, exitCode: 4 },
  SourceBusy: { permanent: false, exitCode: 4 },
  RepositoryUnusable: { permanent: true, exitCode: 5 },
  /** The database is older than the repository, or another database has written to it. */
  RepositoryAhead: { permanent: true, exitCode: 5 },
  RepositoryFull: { permanent: true, exitCode: 5 },
  TargetUnusable: { permanent: true, exitCode: 5 },
  /** A restore was to write where this host allows none. */
  TargetNotAllowed: { permanent: true, exitCode: 5 },
  TargetFull: { permanent: true, exitCode: 5 },
  ScratchFull: { permanent: true, exitCode: 5 },
  NoParent: { permanent: true, exitCode: 6 },
  ChangeIdLost: { permanent: true, exitCode: 6 },
  ParentUnusable: { permanent: true, exitCode: 6 },
  FreezeFailed: { permanent: true, exitCode: 6 },
  /** The backup itself could crash the guest. */
  GuestAtRisk: { permanent: true, exitCode: 6 },
  SnapshotLost: { permanent: true, exitCode: 7 },
  PortTaken: { permanent: true, exitCode: 7 },
  ExportFailed: { permanent: false, exitCode: 7 },
  CopyFailed: { permanent: false, exitCode: 7 },
  ImageDamaged: { permanent: false, exitCode: 7 },
  /** A verification or a restore found what is not as it was backed up. */
  PointDamaged: { permanent: true, exitCode: 6 },
  /** What was read back differs from what was to be read. */
  ContentDiffers: { permanent: false, exitCode: 7 },
  NoPolicy: { permanent: true, exitCode: 2 },
  CopyStalled: { permanent: false, exitCode: 7 },
  CopyIncomplete: { permanent: false, exitCode: 7 },
  CleanUpFailed: { permanent: false, exitCode: 7 },
  SourceFailed: { permanent: false, exitCode: 7 },
  WrongHost: { permanent: true, exitCode: 7 },
  /** The database belongs to another Temporal namespace than the one that answers. */
  WrongNamespace: { permanent: true, exitCode: 7 },
  HostNotUp: { permanent: true, exitCode: 8 },
  ToolMissing: { permanent: true, exitCode: 9 },
  ToolTooOld: { permanent: true, exitCode: 9 },
  ToolFailed: { permanent: false, exitCode: 7 },
  DatabaseUnreachable: { permanent: false, exitCode: 8 },
  DatabaseNotMigrated: { permanent: true, exitCode: 8 },
  /** The Temporal server answers, and does not know the namespace. */
  NamespaceNotFound: { permanent: true, exitCode: 8 },
  TemporalUnreachable: { permanent: false, exitCode: 8 },
  Cancelled: { permanent: true, exitCode: 10 },
} as const satisfies Record<string, { permanent: boolean; exitCode: number }>;

export type ErrorCode = keyof typeof errorCodes;

/** An error with a stable code. The message names the object and its id, what was expected and found, and the next step. */
export class BackupError extends Error {
  override readonly name = 'BackupError';
  readonly code: ErrorCode;
  /** Machine-readable facts, for callers that act on them. Never secrets. */
  readonly details: Record<string, unknown> | undefined;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; details?: Record<string, unknown> } = {}) {
    super(message, { cause: options.cause });
    this.code = code;
    this.details = options.details;
  }

  get permanent(): boolean {
    return errorCodes[this.code].permanent;
  }
}
