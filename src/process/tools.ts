import { BackupError } from '../domain/errors.js';
import { run, type Program } from './run.js';

/** The oldest versions that backups were tried with: older ones fail in ways that exit codes do not show. */
const oldest: readonly { program: Program; version: readonly [number, number] }[] = [
  { program: 'qemu-img', version: [7, 2] },
  { program: 'qemu-nbd', version: [7, 2] },
  { program: 'nbdcopy', version: [1, 14] },
  { program: 'nbdinfo', version: [1, 14] },
  { program: 'nbdkit', version: [1, 32] },
  { program: 'openssl', version: [1, 1] },
  { program: 'setpriv', version: [2, 33] },
];

/** @throws BackupError ToolMissing (names the Debian package), ToolTooOld (expected and found), or both kinds in one message */
export async function requireTools(): Promise<void> {
  const problems: BackupError[] = [];
  for (const { program, version } of oldest) {
    try {
      requireVersion(program, version, await versionOf(program));
    } catch (error) {
      if (!(error instanceof BackupError)) throw error;
      problems.push(error);
    }
  }
  const [first] = problems;
  if (first) throw new BackupError(first.code, problems.map(({ message }) => message).join('\n'));
}

async function versionOf(program: Program): Promise<string> {
  const args = program === 'openssl' ? ['version'] : ['--version'];
  const { stdout } = await run(program, args, { timeoutMs: 30_000 }); // only a machine in deep trouble takes longer
  return stdout;
}

/** @throws BackupError ToolTooOld. `output` is what the program prints of its own version. */
export function requireVersion(program: Program, [major, minor]: readonly [number, number], output: string): void {
  const found = /(\d+)\.(\d+)/.exec(output);
  const [foundMajor, foundMinor] = [Number(found?.[1]), Number(found?.[2])];
  if (found && (foundMajor > major || (foundMajor === major && foundMinor >= minor))) return;
  throw new BackupError(
    'ToolTooOld',
    `Expected ${program} ${major}.${minor} or newer, found ${found?.[0] ?? `'${output.slice(0, 80)}'`}`,
  );
}
