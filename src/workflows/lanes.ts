import { CancellationScope } from '@temporalio/workflow';

/**
 * Works on all items, at most `limit` at a time. When one fails, `onFailure` hears of it, no further one is begun, and those under way
 * are cancelled and waited for before this throws.
 * @returns the results in the order in which they came
 */
export async function inLanes<Item, Result>(
  items: readonly Item[],
  limit: number,
  work: (item: Item) => Promise<Result>,
  onFailure: (item: Item) => void,
): Promise<Result[]> {
  return CancellationScope.cancellable(async () => {
    const scope = CancellationScope.current();
    const waiting = [...items];
    const results: Result[] = [];
    const failures: unknown[] = [];
    const lane = async () => {
      for (let item = waiting.shift(); item !== undefined && failures.length === 0; item = waiting.shift()) {
        try {
          results.push(await work(item));
        } catch (error) {
          onFailure(item);
          failures.push(error);
          scope.cancel();
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(limit, items.length) }, lane)); // lanes never reject
    if (failures.length > 0) throw failures[0];
    return results;
  });
}

/**
 * Runs local activities of several lanes one after the other. Two at once end in two activations, but are replayed in one: then
 * what follows each comes in another order, and the run is stuck after a restart of its worker.
 */
export type InTurn = <T>(step: () => Promise<T>) => Promise<T>;

export function takeTurns(): InTurn {
  let last: Promise<unknown> = Promise.resolve();
  return (step) => {
    const turn = last.then(step);
    last = turn.catch(() => undefined);
    return turn;
  };
}
