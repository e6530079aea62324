/** What a job's row says of a run that ended without cleaning up after itself. `runState`: how it ended, such as `terminated`. */
export function orphanError(runState: string): string {
  return `its workflow run ended without clean-up: ${runState}`;
}
