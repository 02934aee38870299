// What the objects on the screen used in the last minutes, for their sparklines: only those that can be seen are asked for.

import { ApiError, type Api } from "../protocol/api";
import type { RangeSeries } from "../protocol/types";
import { Cell } from "./cell";

const LENGTH_MS = 900_000;
export const STEP_MS = 15_000;
/** A list that is scrolled asks when it rests. */
const REST_MS = 200;

/** Values at each step, null where there is none. */
export function stepped(series: RangeSeries | undefined, from: number, to: number, step: number): (number | null)[] {
  const known = new Map((series?.values ?? []).map(([at, value]) => [Math.round((at * 1000 - from) / step), Number(value)]));
  return Array.from({ length: Math.round((to - from) / step) + 1 }, (_, place) => known.get(place) ?? null);
}

export class Lately {
  /** By id. */
  readonly values = new Cell<Map<string, (number | null)[]>>(new Map());
  private wanted: string[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private ended = false;

  /** `label` tells series apart; its values are ids. */
  constructor(
    private readonly api: Api,
    private readonly metric: string,
    private readonly label: string,
  ) {}

  /** Follows these. */
  want(ids: string[]): void {
    if (ids.join() === this.wanted.join()) return;
    this.wanted = ids;
    this.later(REST_MS);
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.timer);
  }

  private later(ms: number): void {
    clearTimeout(this.timer);
    if (!this.ended && this.wanted.length > 0) this.timer = setTimeout(() => void this.read(), ms);
  }

  private async read(): Promise<void> {
    const to = Math.floor(Date.now() / STEP_MS) * STEP_MS;
    const asked = this.wanted;
    try {
      const told = await this.api.range(`${this.metric}{${this.label}=~"${asked.join("|")}"}`, to - LENGTH_MS, to, STEP_MS);
      if (this.ended) return;
      this.values.set(new Map(told.map((one) => [one.metric[this.label] ?? "", stepped(one, to - LENGTH_MS, to, STEP_MS)])));
    } catch (error) {
      // The list says already that the control plane does not answer.
      if (!(error instanceof ApiError)) throw error;
    }
    if (asked === this.wanted) this.later(STEP_MS);
  }
}
