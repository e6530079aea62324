import { describe, expect, test } from 'vitest';
import {
  asFull,
  planDisk,
  planReasons,
  type BackupType,
  type ContextFacts,
  type DiskFacts,
  type PlanReason,
} from '../../../src/domain/plan.js';

const parent = {
  diskId: 'parent-id',
  identity: 'file=/images/sys.img (inode 12)',
  sizeBytes: 1000,
  changeId: 'backupvm-1',
  isDamaged: false,
  isRestoredOver: false,
  isForgotten: false,
  chainLength: 3,
};
const { identity } = parent;
const disk: DiskFacts = { key: 'SYS', target: 'vda', identity, sizeBytes: 1000, tracksChanges: true, parent };
const seasoned: ContextFacts = { hasPoints: true, inOtherRepository: false, nameWasAnotherVM: false };
const fresh: ContextFacts = { hasPoints: false, inOtherRepository: false, nameWasAnotherVM: false };

type Case = [
  behaviour: string,
  disk: Partial<DiskFacts>,
  context: ContextFacts,
  requested: 'auto' | BackupType,
  type: BackupType,
  reason: PlanReason,
];

const newDisk: Partial<DiskFacts> = { parent: null };
const untracked: Partial<DiskFacts> = { tracksChanges: false };
const replaced: Partial<DiskFacts> = { identity: 'file=/images/sys.img (inode 13)' };
const grown: Partial<DiskFacts> = { sizeBytes: 1001 };
const shrunk: Partial<DiskFacts> = { sizeBytes: 999 };
const lost: Partial<DiskFacts> = { parent: { ...parent, changeId: null } };
const forgotten: Partial<DiskFacts> = { parent: { ...parent, changeId: null, isForgotten: true } };
const damaged: Partial<DiskFacts> = { parent: { ...parent, isDamaged: true } };
const restoredOver: Partial<DiskFacts> = { parent: { ...parent, isRestoredOver: true } };
const elsewhere: ContextFacts = { ...fresh, inOtherRepository: true };
const recreated: ContextFacts = { ...fresh, nameWasAnotherVM: true };

const cases: Case[] = [
  ['a good parent makes an incremental', {}, seasoned, 'auto', 'incremental', 'parent_good'],
  [
    'asking for an incremental changes nothing about a good parent',
    {},
    seasoned,
    'incremental',
    'incremental',
    'parent_good',
  ],
  ['asking for a full beats a good parent', {}, seasoned, 'full', 'full', 'requested'],
  ['asking for a full beats every other reason', { ...newDisk, ...untracked }, elsewhere, 'full', 'full', 'requested'],
  ['a disk without parent, where the VM has points, is new', newDisk, seasoned, 'auto', 'full', 'disk_added'],
  [
    'a new disk of a VM is no first backup, whatever lies elsewhere',
    newDisk,
    { ...elsewhere, hasPoints: true, nameWasAnotherVM: true },
    'auto',
    'full',
    'disk_added',
  ],
  ['a VM that nobody knows has its first backup', newDisk, fresh, 'auto', 'full', 'first_backup'],
  ['a VM with points in another repository says so', newDisk, elsewhere, 'auto', 'full', 'other_repository'],
  ['a VM that took the name of another says so', newDisk, recreated, 'auto', 'full', 'vm_recreated'],
  [
    'the name of another VM here says more than points elsewhere',
    newDisk,
    { ...recreated, inOtherRepository: true },
    'auto',
    'full',
    'vm_recreated',
  ],
  [
    'a disk without tracking that has no parent is a first backup',
    { ...newDisk, ...untracked },
    fresh,
    'auto',
    'full',
    'first_backup',
  ],
  ['a disk without tracking is copied whole', untracked, seasoned, 'auto', 'full', 'no_change_tracking'],
  [
    'no tracking says more than another size',
    { ...untracked, ...grown },
    seasoned,
    'auto',
    'full',
    'no_change_tracking',
  ],
  ['another image under the same key is copied whole', replaced, seasoned, 'auto', 'full', 'disk_replaced'],
  [
    'another image says more than another size, or a lost change id',
    { ...replaced, ...grown, parent: { ...parent, changeId: null } },
    seasoned,
    'auto',
    'full',
    'disk_replaced',
  ],
  [
    'a restore says more than the other image that it left',
    { ...replaced, ...restoredOver },
    seasoned,
    'auto',
    'full',
    'restored_in_place',
  ],
  ['a disk that grew is copied whole', grown, seasoned, 'auto', 'full', 'disk_grown'],
  ['a disk that shrank is copied whole', shrunk, seasoned, 'auto', 'full', 'disk_shrunk'],
  ['another size says more than a lost change id', { ...lost, ...grown }, seasoned, 'auto', 'full', 'disk_grown'],
  ['a parent without change id is no base', lost, seasoned, 'auto', 'full', 'change_id_lost'],
  ['a change id that a person had forgotten is no base', forgotten, seasoned, 'auto', 'full', 'change_ids_forgotten'],
  ['a damaged parent is no base', damaged, seasoned, 'auto', 'full', 'parent_damaged'],
  ['damage says more than another size', { ...damaged, sizeBytes: 1001 }, seasoned, 'auto', 'full', 'parent_damaged'],
  ['a disk that a restore replaced is copied whole', restoredOver, seasoned, 'auto', 'full', 'restored_in_place'],
  ['asking for an incremental does not make one without base', lost, seasoned, 'incremental', 'full', 'change_id_lost'],
];

describe('planDisk', () => {
  test.each(cases)('%s', (_behaviour, change, context, requested, type, reason) => {
    const facts = { ...disk, ...change };
    const base =
      type === 'incremental'
        ? { parentId: 'parent-id', baseChangeId: 'backupvm-1' }
        : { parentId: null, baseChangeId: null };
    expect(planDisk(facts, context, { type: requested })).toEqual({
      key: 'SYS',
      target: 'vda',
      identity: facts.identity,
      sizeBytes: facts.sizeBytes,
      type,
      reason,
      ...base,
    });
  });

  test.each([
    [2, 'full', 'chain_cap'],
    [3, 'full', 'chain_cap'],
    [4, 'incremental', 'parent_good'],
    [undefined, 'incremental', 'parent_good'],
  ] as const)('a chain of 3 files with a cap of %s goes on as %s', (maxChainLength, type, reason) => {
    expect(planDisk(disk, seasoned, { type: 'auto', maxChainLength })).toMatchObject({ type, reason });
  });

  test('every reason but the cap and those that only the host can find comes up in these cases', () => {
    const foundElsewhere: PlanReason[] = ['parent_missing', 'parent_changed', 'chain_cap', 'merged'];
    const planned = cases.map(([, , , , , reason]) => reason);
    expect([...new Set([...planned, ...foundElsewhere])].sort()).toEqual(Object.keys(planReasons).sort());
  });
});

test('asFull keeps the disk, and takes the parent and its change id away', () => {
  const plan = planDisk(disk, seasoned, { type: 'auto' });
  expect(asFull(plan, 'parent_missing')).toEqual({
    key: 'SYS',
    target: 'vda',
    identity,
    sizeBytes: 1000,
    type: 'full',
    reason: 'parent_missing',
    parentId: null,
    baseChangeId: null,
  });
  expect(plan.type).toBe('incremental');
});
