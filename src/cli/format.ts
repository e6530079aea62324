import { styleText } from 'node:util';
import Table from 'cli-table3';

/** A time in this machine's zone: `2026-11-23 01:45:00`. */
export function formatTime(time: Date): string {
  const two = (value: number) => String(value).padStart(2, '0');
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  return `${day} ${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

/** A duration for people: `12 s`, `3 min 04 s`, `2 h 05 min`. */
export function formatDuration(durationMs: number): string {
  const seconds = Math.max(0, Math.round(durationMs / 1000));
  const minutes = Math.floor(seconds / 60);
  const two = (value: number) => String(value).padStart(2, '0');
  if (minutes === 0) return `${seconds} s`;
  if (minutes < 60) return `${minutes} min ${two(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

/** The beginning of an id: enough to name it in another command. */
export function shortId(id: string): string {
  return id.slice(0, 8);
}

export interface TableOptions {
  /** Names of columns whose cells are aligned to the right. */
  right?: readonly string[];
  colours: boolean;
}

/** Rows under headings, columns aligned, also where characters are wide. */
export function formatTable(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  { right = [], colours }: TableOptions,
): string {
  const empty = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', left: '', 'left-mid': '', mid: '' };
  const alsoEmpty = { 'mid-mid': '', right: '', 'right-mid': '', middle: '', bottom: '' };
  const table = new Table({
    chars: { ...empty, ...alsoEmpty, 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '' },
    style: { 'padding-left': 0, 'padding-right': 2, head: [], border: [] },
    colAligns: headings.map((heading) => (right.includes(heading) ? 'right' : 'left')),
  });
  table.push(headings.map((heading) => (colours ? styleText('bold', heading, { validateStream: false }) : heading)));
  table.push(...rows.map((row) => row.map(printable)));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

/** Lines of `name: value`, the values below each other. */
export function formatFields(fields: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...fields.map(([name]) => name.length)) + 1;
  return fields.map(([name, value]) => `${`${name}:`.padEnd(width)} ${printable(value)}`).join('\n');
}

/** Names from outside may hold anything: what would move the cursor is shown as its code. */
export function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
