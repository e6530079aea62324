import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { RestoreVMResult } from '../src/domain/restore-result.js';
import type { VerifyBackupResult } from '../src/domain/verify-result.js';
import { mainQueue } from '../src/workflows/messages.js';
import type { Guest } from './guest.js';
import { checksums, type Ledger } from './ledger.js';
import type { Random } from './random.js';
import { ignoreRunning, patiently, untilClosed, untilUnleased, type Run } from './run.js';
import { careIdOf } from './victims.js';

const kinds = ['RestoreVM', 'RestoreVM', 'VerifyBackup', 'DeleteBackup', 'PruneBackups'] as const;
type Kind = (typeof kinds)[number];
let count = 0;

/**
 * Restores, verifies, deletes or prunes once, beside the guest's backup. @returns what looks at what came of it, once all points
 * are in the ledger, and says what is wrong with it
 */
export async function takeCare(
  run: Run,
  guest: Guest,
  ledger: Ledger,
  random: Random,
): Promise<() => Promise<string[]>> {
  const { lab } = run;
  const points = await patiently(() => ledger.pointIds());
  if (points.length < 2) return async () => [];
  const kind = random.pick(kinds);
  const directory = join(lab.directory, 'restores', String((count += 1)));
  await mkdir(directory, { recursive: true });
  const input = inputOf(kind, guest, { directory, random, points });
  if (kind === 'DeleteBackup') ledger.mayGo(input.point ?? '');
  if (kind === 'PruneBackups') points.forEach((point) => ledger.mayGo(point));
  const workflowId = careIdOf(guest);
  const start = () => lab.client.workflow.start(kind, { taskQueue: mainQueue, workflowId, args: [input] });
  await patiently(() => start().catch(ignoreRunning));
  const isComplete = (await patiently(() => untilClosed(lab, workflowId))) === 'COMPLETED';
  const counts = (run.care[kind] ??= { completed: 0, failed: 0 });
  counts[isComplete ? 'completed' : 'failed'] += 1;
  await patiently(() => untilUnleased(lab, guest));
  const result: unknown = isComplete
    ? await patiently(() => lab.client.workflow.getHandle(workflowId).result())
    : undefined;
  return async () => {
    const problems = await inspect(kind, result, { guest, ledger, directory });
    await rm(directory, { recursive: true, force: true });
    return problems.map((problem) => `${guest.name}: ${problem}`);
  };
}

interface Means {
  directory: string;
  random: Random;
  /** Oldest first. The newest is not deleted: the next backup would be a full, as it is after a crash. */
  points: readonly string[];
}

function inputOf(
  kind: Kind,
  { name, hypervisor }: Guest,
  { directory, random, points }: Means,
): Record<string, unknown> & { point?: string } {
  const vm = { vm: name, hypervisor };
  switch (kind) {
    case 'RestoreVM':
      return { ...vm, target: { kind: 'files', directory, format: 'raw' } };
    case 'VerifyBackup':
      return { ...vm, all: true, level: random.pick(['structure', 'checksum', 'content']) };
    case 'DeleteBackup':
      return { point: random.pick(points.slice(0, -1)), descendants: random.pick(['merge', 'merge', 'refuse']) };
    case 'PruneBackups':
      return { ...vm, policy: { keepLast: random.between(2, 4) } };
  }
}

async function inspect(
  kind: Kind,
  result: unknown,
  { guest, ledger, directory }: { guest: Guest; ledger: Ledger; directory: string },
): Promise<string[]> {
  if (kind === 'VerifyBackup' && result) {
    const { files } = result as VerifyBackupResult;
    return files.flatMap(({ path, damage }) =>
      damage === null ? [] : [`verification finds ${path} damaged: ${damage}`],
    );
  }
  if (kind !== 'RestoreVM') return [];
  const found = (await readdir(directory)).sort();
  if (!result) {
    const isWhole = found.length === 0 || found.length === guest.keys.length; // it may have been too late to undo it
    return isWhole ? [] : [`a restore that failed has left ${found.join(', ')}`];
  }
  const { pointId, disks } = result as RestoreVMResult;
  const paths = guest.keys.map((key) => disks.find((disk) => disk.key === key)?.path ?? key);
  const isRight = ledger.witnessOf(pointId)?.join() === (await checksums(paths)).join();
  return isRight ? [] : [`the restore of ${pointId} holds something else than the point`];
}
