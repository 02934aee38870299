// The latest values of streams, kept as the server numbers them.

import type { LiveFrame, LiveMessage, LiveSeries, LiveStream } from "../protocol/types";

export class Stream {
  series: LiveSeries[] = [];
  values: (number | null)[] = [];
  at = 0;
  private places = new Map<string, number[]>();

  static of(told: LiveStream): Stream {
    const stream = new Stream();
    stream.at = told.at;
    stream.add(told.series);
    told.values.forEach((value, column) => (stream.values[column] = value));
    return stream;
  }

  take(frame: LiveFrame): void {
    if (frame.reset) {
      this.series = [];
      this.values = [];
      this.places.clear();
    }
    this.add(frame.added);
    frame.columns.forEach((column, place) => (this.values[column] = frame.values[place] ?? null));
    this.at = frame.at;
  }

  /** Every series of a metric that has a value now. */
  *of(name: string): Generator<[Record<string, string>, number]> {
    for (const column of this.places.get(name) ?? []) {
      const value = this.values[column];
      if (value !== null && value !== undefined) yield [this.series[column]!.labels, value];
    }
  }

  /** The value of a metric's only series. */
  one(name: string): number | undefined {
    for (const [, value] of this.of(name)) return value;
    return undefined;
  }

  /** The sum over a metric's series that fit; undefined where there is none. */
  sum(name: string, fits: (labels: Record<string, string>) => boolean = () => true): number | undefined {
    let sum: number | undefined;
    for (const [labels, value] of this.of(name)) if (fits(labels)) sum = (sum ?? 0) + value;
    return sum;
  }

  private add(series: LiveSeries[]): void {
    for (const one of series) {
      const column = this.series.push(one) - 1;
      this.values.push(null);
      const places = this.places.get(one.name);
      if (places) places.push(column);
      else this.places.set(one.name, [column]);
    }
  }
}

/** By host id and stream name. */
export class Streams {
  private readonly all = new Map<string, Stream>();

  /** Takes a message; what moved, as `host/stream`. */
  take(message: LiveMessage): string[] {
    if (message.type === "snapshot") {
      this.all.clear();
      return message.streams.map((told) => {
        const key = `${told.host}/${told.stream}`;
        this.all.set(key, Stream.of(told));
        return key;
      });
    }
    const key = `${message.host}/${message.stream}`;
    let stream = this.all.get(key);
    if (!stream) this.all.set(key, (stream = new Stream()));
    stream.take(message);
    return [key];
  }

  get(host: string, stream: "node" | "vm"): Stream | undefined {
    return this.all.get(`${host}/${stream}`);
  }
}
