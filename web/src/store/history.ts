// Samples over a range of time: what was asked for once, and what came since.

import type { Sample } from "./strips";

/** More points than pixels say no more. */
const POINTS = 1200;
/** So many moments are looked at for them: the control plane takes 11,000 at most. */
const MOMENTS = 10_000;
const DAY = 86_400_000;

export interface Range {
  from: number;
  to: number;
  /** From one point to the next. */
  step: number;
}

/** From one moment that is looked at to the next: what lies between two points is looked at, too. */
export function fine(range: Range): number {
  const length = range.to - range.from;
  // Over days minutes are fine enough, and five of them what the control plane answers from minutes.
  const least = length > DAY ? 300_000 : 1000;
  return Math.min(range.step, Math.max(least, Math.ceil(length / MOMENTS / 1000) * 1000));
}

export function rangeOf(lengthMs: number, to: number): Range {
  const step = Math.max(1000, Math.ceil(lengthMs / POINTS / 1000) * 1000);
  return { from: to - lengthMs, to, step };
}

export class History {
  times: number[] = [];
  private columns = new Map<string, (number | null)[]>();
  /** Counts changes. */
  version = 0;

  constructor(
    readonly keys: string[],
    public range: Range,
  ) {
    for (const key of keys) this.columns.set(key, []);
  }

  values(key: string): (number | null)[] {
    return this.columns.get(key) ?? [];
  }

  /** Puts a layer's past, as time and value, below what came meanwhile. */
  fill(past: Map<string, [number, number][]>): void {
    const rows = new Map<number, Sample>();
    for (const [key, points] of past) {
      for (const [at, value] of points) rows.set(at, { ...rows.get(at), [key]: value });
    }
    const newest = Math.max(0, ...rows.keys());
    this.times.forEach((at, place) => {
      if (at > newest) rows.set(at, Object.fromEntries(this.keys.map((key) => [key, this.values(key)[place] ?? undefined])));
    });
    this.times = [...rows.keys()].sort((a, b) => a - b);
    for (const key of this.keys) this.columns.set(key, this.times.map((at) => rows.get(at)?.[key] ?? null));
    this.version += 1;
  }

  /** Appends what is so now, and lets go of what is too old to be shown. */
  append(at: number, sample: Sample): void {
    const length = this.range.to - this.range.from;
    this.range = { from: at - length, to: at, step: this.range.step };
    const last = this.times[this.times.length - 1];
    if (last !== undefined && at <= last) return;
    const before = this.times[this.times.length - 2];
    // Points nearer than a step take the place of the one before.
    if (last !== undefined && before !== undefined && at - before < this.range.step) this.drop(this.times.length - 1, 1);
    this.times.push(at);
    for (const key of this.keys) this.values(key).push(sample[key] ?? null);
    const old = this.times.findIndex((time) => time >= this.range.from - this.range.step);
    if (old > 0) this.drop(0, old);
    this.version += 1;
  }

  /** Where nothing is known for longer than three steps, or three of the slowest measurements. */
  gaps(): [number, number][] {
    const most = Math.max(3 * this.range.step, 10_000);
    const found: [number, number][] = [];
    let last = this.range.from;
    for (const at of [...this.times, this.range.to]) {
      if (at - last > most) found.push([last, at]);
      last = at;
    }
    return found;
  }

  /** The times with a hole where there is a gap, and the values that go with them. */
  plotted(keys: string[]): [number[], ...(number | null)[][]] {
    const holes = this.gaps();
    const times: number[] = [];
    const columns: (number | null)[][] = keys.map(() => []);
    this.times.forEach((at, place) => {
      const hole = holes.find(([, end]) => end === at);
      if (hole) {
        times.push((hole[0] + at) / 2);
        columns.forEach((column) => column.push(null));
      }
      times.push(at);
      keys.forEach((key, number) => columns[number]!.push(this.values(key)[place] ?? null));
    });
    return [times, ...columns];
  }

  private drop(from: number, count: number): void {
    this.times.splice(from, count);
    for (const column of this.columns.values()) column.splice(from, count);
  }
}
