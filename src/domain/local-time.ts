/** What a clock on a wall shows. */
export interface LocalTime {
  year: number;
  /** 1 to 12. */
  month: number;
  day: number;
  hour: number;
}

/** Whether the name is one of the IANA time zones that this machine knows. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

/** Makes a function that tells the local time of an instant. @throws RangeError when there is no such time zone */
export function createLocalTime(timeZone: string): (time: Date) => LocalTime {
  const format = new Intl.DateTimeFormat('en', {
    ...{ timeZone, calendar: 'gregory', numberingSystem: 'latn', hourCycle: 'h23' },
    ...{ year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric' },
  });
  return (time) => {
    const parts = format.formatToParts(time);
    const read = (type: Intl.DateTimeFormatPartTypes) => Number(parts.find((part) => part.type === type)?.value);
    return { year: read('year'), month: read('month'), day: read('day'), hour: read('hour') };
  };
}

const dayMs = 86_400_000;

/** `2026-W48`: the ISO week of a day. Its year is the one that the week's Thursday lies in. */
export function isoWeek({ year, month, day }: LocalTime): string {
  const date = Date.UTC(year, month - 1, day);
  const weekday = (new Date(date).getUTCDay() + 6) % 7; // Monday: 0
  const thursday = new Date(date + (3 - weekday) * dayMs);
  const ofYear = thursday.getUTCFullYear();
  const week = Math.floor((thursday.getTime() - Date.UTC(ofYear, 0, 1)) / (7 * dayMs)) + 1;
  return `${ofYear}-W${String(week).padStart(2, '0')}`;
}
