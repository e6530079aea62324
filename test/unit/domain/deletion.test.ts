import { describe, expect, test } from 'vitest';
import { planDeletion, type ChainDisk } from '../../../src/domain/deletion.js';

/** `1a` is disk `a` of job `1`; `2a<1a` builds upon it. */
function disks(text: string): ChainDisk[] {
  return text.split(' ').map((word) => {
    const [id = '', parentId = null] = word.split('<');
    return { id, jobId: id.slice(0, -1), parentId };
  });
}

const one = '1a 2a<1a 3a<2a 4a 5a<4a';
const two = '1a 1b 2a<1a 3a<2a 3b<1b 4b<3b';

describe('a deletion', () => {
  test.each([
    ['takes the newest of a chain', one, ['3'], ['3'], []],
    ['takes a full that nobody needs', '1a 2a', ['1'], ['1'], []],
    ['merges a full into its successor', one, ['1'], ['1'], ['1a>2a']],
    ['merges an incremental into its successor', one, ['2'], ['2'], ['2a>3a']],
    ['merges a run of several at once', one, ['1', '2'], ['1', '2'], ['1a,2a>3a']],
    ['merges each run into its own successor', '1a 2a<1a 3a<2a 4a<3a', ['1', '3'], ['1', '3'], ['1a>2a', '3a>4a']],
    ['takes a whole chain without merging', one, ['1', '2', '3'], ['1', '2', '3'], []],
    ['merges a disk into a job that is not the next one', two, ['1'], ['1'], ['1a>2a', '1b>3b']],
    ['merges one disk of a job and takes the other', two, ['3'], ['3'], ['3b>4b']],
    ['of nothing takes nothing', one, [], [], []],
  ])('%s', (_what, chain, chosen, jobIds, merges) => {
    const plan = planDeletion(disks(chain), chosen, 'merge');
    expect(plan.jobIds).toEqual(jobIds);
    expect(plan.merges.map(({ memberIds, successorId }) => `${memberIds.join()}>${successorId}`)).toEqual(merges);
  });

  test.each([
    ['takes all that needs it along', one, ['1'], ['1', '2', '3']],
    ['takes the other disks of those along, and what needs these', two, ['2'], ['2', '3', '4']],
    ['takes nothing else', one, ['5'], ['5']],
  ])('with descendants %s', (_what, chain, chosen, jobIds) => {
    expect(planDeletion(disks(chain), chosen, 'delete')).toEqual({ jobIds, merges: [] });
  });

  test.each([
    ['a full', one, ['1'], ['2']],
    ['one disk of two', two, ['1'], ['2', '3']],
    ['what is needed by another one than the next', '1a 1b 2a<1a 3b<1b', ['1', '2'], ['3']],
  ])('is refused where others need %s, and names them', (_what, chain, chosen, pointIds) => {
    expect(() => planDeletion(disks(chain), chosen, 'refuse')).toThrow(
      expect.objectContaining({ code: 'HasDescendants', details: { pointIds } }),
    );
  });

  test('never merges a file that two others build upon', () => {
    expect(() => planDeletion(disks('1a 2a<1a 3a<1a'), ['1'], 'merge')).toThrow(TypeError);
  });
});
