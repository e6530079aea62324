// ms@3.0.0-canary has no "types" in its exports map: without this, every Temporal Duration is `any` under nodenext.
declare module 'ms' {
  type Unit =
    'd' | 'day' | 'days' | 'h' | 'hour' | 'hours' | 'm' | 'minute' | 'minutes' | 's' | 'second' | 'seconds' | 'ms';
  export type StringValue = `${number}` | `${number}${Unit}` | `${number} ${Unit}`;
}
