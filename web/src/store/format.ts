// Numbers as people read them: aligned, with the unit apart. What is not known is a dash.

export interface Shown {
  text: string;
  unit: string;
}

export const DASH = "—";
const NOTHING: Shown = { text: DASH, unit: "" };

/** Three digits that matter. */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 100 || size === 0) return value.toFixed(0);
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value: number | undefined | null): Shown {
  if (value === undefined || value === null || !Number.isFinite(value)) return NOTHING;
  let size = value;
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < BINARY.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return { text: unit === 0 ? size.toFixed(0) : short(size), unit: BINARY[unit]! };
}

export function perSecond(value: number | undefined | null): Shown {
  const shown = bytes(value);
  return shown.unit ? { ...shown, unit: `${shown.unit}/s` } : shown;
}

/** A share of 1 in percent. */
export function percent(value: number | undefined | null, digits = 0): Shown {
  if (value === undefined || value === null || !Number.isFinite(value)) return NOTHING;
  return { text: (value * 100).toFixed(digits), unit: "%" };
}

export function plain(value: number | undefined | null, unit = ""): Shown {
  if (value === undefined || value === null || !Number.isFinite(value)) return NOTHING;
  return { text: short(value), unit };
}

/** A time that passed, in its largest unit or two. */
export function span(ms: number): string {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.floor(hours / 24)} d`;
}

const two = (n: number) => String(n).padStart(2, "0");

/** Time of day, UTC. */
export function clock(ms: number, seconds = false): string {
  const date = new Date(ms);
  const text = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
  return seconds ? `${text}:${two(date.getUTCSeconds())}` : text;
}
