import { BackupError, type ErrorCode } from '../../domain/errors.js';
import { run } from '../../process/run.js';

/** What libvirt's English message means to us. virsh exits with 1 for everything. */
export type VirshProblem =
  | 'no-domain'
  | 'not-running'
  | 'no-job'
  | 'no-checkpoint'
  | 'broken-bitmap'
  | 'busy'
  | 'no-agent'
  | 'unreachable'
  | 'other';

export type VirshOutcome = { ok: true; stdout: string } | { ok: false; problem: VirshProblem; said: string };

export interface VirshCall {
  uri: string;
  /** Absent only for clean-up, which must run to its end when the caller is cancelled. */
  signal?: AbortSignal;
}

// An unknown domain is one line without a reason; a second line means that the connection broke, and says nothing about the domain.
const patterns: [RegExp, VirshProblem][] = [
  [/^error: failed to get domain '[^\n]*'\s*(error: Domain not found[^\n]*)?$/, 'no-domain'],
  [/failed to connect to the hypervisor|Cannot recv data|End of file while reading data/, 'unreachable'],
  [/domain is not running|inactive domain/, 'not-running'],
  [/no job is active on the domain|no domain backup job present/, 'no-job'],
  [/missing or broken bitmap|not found in backing chain/, 'broken-bitmap'],
  [/Domain checkpoint not found/, 'no-checkpoint'],
  [/cannot acquire state change lock|active block job|domain has active/, 'busy'],
  [
    /guest agent is not (configured|connected|available|responding)|agent is not responding|guest agent.*disappeared/i,
    'no-agent',
  ],
];

const codes: Partial<Record<VirshProblem, ErrorCode>> = {
  'no-domain': 'VMNotFound',
  'not-running': 'VMNotRunning',
  busy: 'SourceBusy',
};

// libvirt itself waits 30 s for its state change lock before it says that the domain is busy.
const defaultTimeoutMs = 60_000;

/** Runs one virsh command, and tells what went wrong by kind instead of throwing; whether it may run twice is the command's matter. */
export async function tryVirsh(
  call: VirshCall,
  args: readonly string[],
  timeoutMs = defaultTimeoutMs,
): Promise<VirshOutcome> {
  const outcome = await run('virsh', ['--quiet', '--connect', call.uri, ...args], { signal: call.signal, timeoutMs });
  if (outcome.exitCode === 0) return { ok: true, stdout: outcome.stdout };
  const said = outcome.stderr.trim();
  return { ok: false, problem: problemOf(said), said };
}

/** Runs one virsh command for what it prints. @throws BackupError VMNotFound, VMNotRunning, SourceBusy, SourceFailed */
export async function virsh(call: VirshCall, args: readonly string[], timeoutMs = defaultTimeoutMs): Promise<string> {
  const outcome = await tryVirsh(call, args, timeoutMs);
  if (outcome.ok) return outcome.stdout;
  throw virshError(call.uri, args, outcome);
}

/** The BackupError for a failed command, with what libvirt said. */
export function virshError(
  uri: string,
  args: readonly string[],
  failure: { problem: VirshProblem; said: string },
): BackupError {
  const said = failure.said
    .replaceAll(/^error: /gm, '')
    .replaceAll('\n', ': ')
    .slice(0, 2000);
  const next = failure.problem === 'unreachable' ? `; check that libvirtd runs and that this user may use it` : '';
  return new BackupError(
    codes[failure.problem] ?? 'SourceFailed',
    `libvirt at ${uri} refused ${args.slice(0, 3).join(' ')}: ${said}${next}`,
    { details: { problem: failure.problem } },
  );
}

/** Which problem a message of virsh is about. */
export function problemOf(stderr: string): VirshProblem {
  return patterns.find(([pattern]) => pattern.test(stderr))?.[1] ?? 'other';
}
