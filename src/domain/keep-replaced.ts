import { z } from 'zod';

const secondsOf = { m: 60, h: 3_600, d: 86_400 } as const;
const longestDays = 3_650;
const message = `expected a time such as '24h', '7d' or '90m', or 'none'`;

/** How long replaced disks of a VM are kept where nobody says otherwise: until the day after, when the VM has been looked at. */
const inPlaceSeconds = 24 * 3_600;

/** How long something is kept, as people write it. */
export const keepTime = z
  .string(message)
  .refine((text) => parseKeepTime(text) !== undefined, message)
  .refine((text) => (parseKeepTime(text) ?? 0) <= longestDays * secondsOf.d, `expected at most ${longestDays}d`);

/** In seconds; `none` and `0` are 0. @returns undefined for what is no such time */
export function parseKeepTime(text: string): number | undefined {
  if (text === 'none' || text === '0') return 0;
  const match = /^([1-9]\d{0,6})([mhd])$/.exec(text);
  if (!match) return undefined;
  return Number(match[1]) * secondsOf[match[2] as keyof typeof secondsOf];
}

/**
 * How long a restore keeps the files that it replaces. A restore in place replaces disks that nobody called replaceable, so it
 * keeps them; `overwrite` is a person's word that a file may go.
 */
export function keepReplacedSeconds(input: {
  keepReplaced?: string | undefined;
  target: { kind: 'files' | 'vm' | 'in-place' };
}): number {
  if (input.keepReplaced !== undefined) return parseKeepTime(input.keepReplaced) ?? 0;
  return input.target.kind === 'in-place' ? inPlaceSeconds : 0;
}
