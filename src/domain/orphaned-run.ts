/** How a workflow run stands, as its own namespace says: open, or how it ended. */
export interface RunState {
  isOpen: boolean;
  /** `open`, `terminated`, `timed out`, … */
  state: string;
}

/** A row that a run left, as far as clean-up has to know it. */
export interface RunRow {
  /** Null for a restore point that was imported: no run made it. */
  namespaceId: string | null;
  /** A person declared its namespace lost. */
  isGivenUp: boolean;
  /** The row says that the run did all that it had to do. */
  isComplete: boolean;
}

/**
 * What may be done about a row. `orphaned`: its run ended without clean-up, which is done now. `left`: in doubt nothing is
 * touched, and a person is told why.
 */
export type Standing =
  { kind: 'open' } | { kind: 'orphaned'; runState: string } | { kind: 'left'; runState: string; because: string };

/** Decides about a row by its owner alone; undefined when its namespace is the one that answers, and has to be asked. */
export function judgeOwner({ namespaceId, isGivenUp }: RunRow, ourNamespaceId: string): Standing | undefined {
  if (isGivenUp) return { kind: 'orphaned', runState: 'its namespace was given up' };
  if (namespaceId === ourNamespaceId) return undefined;
  const owner = namespaceId ?? 'none';
  return {
    kind: 'left',
    runState: 'not asked for',
    because: `it belongs to another Temporal namespace, ${owner}; if that one is gone for good, run 'backupvm reconcile --lost-namespace ${owner}'`,
  };
}

/** Decides about a row of our own namespace by how its run stands. */
export function judgeRun({ isComplete }: RunRow, { isOpen, state }: RunState): Standing {
  if (isOpen) return { kind: 'open' };
  // A run completes only after its rows say so. These rows are older than the run: the database was put back to an earlier time.
  if (state === completed && !isComplete)
    return {
      kind: 'left',
      runState: state,
      because: 'its run completed, but the record says that it did not; the database may be older than the repository',
    };
  return { kind: 'orphaned', runState: state };
}

/** The state of a run that returned a result. */
export const completed = 'completed';

/** What a job's row says of a run that ended without cleaning up after itself. `runState`: how it ended, such as `terminated`. */
export function orphanError(runState: string): string {
  return `its workflow run ended without clean-up: ${runState}`;
}
