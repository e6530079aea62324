/** Seconds that something takes. */
export async function seconds(work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  await work();
  return (performance.now() - begin) / 1000;
}

/** The middle one, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, high] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.floor(sorted.length / 2)]];
  if (low === undefined || high === undefined) throw new TypeError('Expected at least one value, found none');
  return (low + high) / 2;
}

/** Something that is measured, and what it is compared with. */
export interface Measure {
  name: string;
  /** Bytes that it moves. */
  bytes: number;
  /** The name of the measure that it is a multiple of; undefined for a yardstick. */
  per?: string;
}

export interface Row extends Measure {
  seconds: number;
  mibPerSecond: number;
  /** Its time as a multiple of the other's, round by round; the median of that. */
  ratio: number | null;
}

/** One row per measure. Ratios are taken within a round, so that a machine that gets slower does not show as ours being slow. */
export function summarize(measures: readonly Measure[], rounds: readonly ReadonlyMap<string, number>[]): Row[] {
  const timesOf = (name: string) => rounds.map((round) => round.get(name) ?? NaN);
  return measures.map((measure) => {
    const times = timesOf(measure.name);
    const others = measure.per === undefined ? null : timesOf(measure.per);
    const took = median(times);
    return {
      ...measure,
      ...{ seconds: round(took, 3), mibPerSecond: round(measure.bytes / took / 2 ** 20, 1) },
      ratio: others && round(median(times.map((time, index) => time / (others[index] ?? NaN))), 2),
    };
  });
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
