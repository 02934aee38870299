// The strips of the recorder: what each layer is now, from the latest values, and what it was, as PromQL.

import type { Stream } from "./streams";

/** Layers by key; undefined where nothing was measured. */
export type Sample = Record<string, number | undefined>;

export interface Layer {
  key: string;
  label: string;
  /** PromQL for the id of what is shown and a window such as `15s`. */
  past(subject: string, window: string): string;
}

export interface Strip {
  name: string;
  /** `bytes` are per second, `size` is bytes, `cores` is CPUs' worth of time. */
  unit: "share" | "bytes" | "size" | "celsius" | "cores";
  /** Layers lie on each other; or the second hangs below the first. */
  form: "stacked" | "mirrored" | "lines";
  layers: Layer[];
  /** The top of the scale; without one the largest value. */
  most?: number;
}

const of = (host: string, name: string, more = "") => `${name}{host_id="${host}"${more}}`;
const mode = (modes: string) => (host: string, window: string) =>
  `sum(rate(${of(host, "node_cpu_seconds_total", `,mode=~"${modes}"`)}[${window}])) / sum(rate(${of(host, "node_cpu_seconds_total")}[${window}]))`;
const average = (name: string) => (host: string, window: string) => `avg_over_time(${of(host, name)}[${window}])`;
const waiting = (what: string) => (host: string, window: string) => `rate(${of(host, `node_pressure_${what}_waiting_seconds_total`)}[${window}])`;

export const STRIPS: Strip[] = [
  {
    name: "CPU",
    unit: "share",
    form: "stacked",
    most: 1,
    layers: [
      { key: "user", label: "User", past: mode("user|nice") },
      { key: "system", label: "System", past: mode("system|irq|softirq|steal") },
      { key: "iowait", label: "I/O wait", past: mode("iowait") },
    ],
  },
  {
    name: "Memory",
    unit: "share",
    form: "stacked",
    most: 1,
    layers: [
      {
        key: "used",
        label: "Used",
        past: (host) => `1 - ${of(host, "node_memory_MemAvailable_bytes")} / ${of(host, "node_memory_MemTotal_bytes")}`,
      },
      {
        key: "cache",
        label: "Cache",
        past: (host) =>
          `(${of(host, "node_memory_MemAvailable_bytes")} - ${of(host, "node_memory_MemFree_bytes")}) / ${of(host, "node_memory_MemTotal_bytes")}`,
      },
    ],
  },
  {
    name: "Disk",
    unit: "bytes",
    form: "mirrored",
    layers: [
      { key: "read", label: "Read", past: average("perigee_host_disk_read_bytes_per_second") },
      { key: "written", label: "Write", past: average("perigee_host_disk_written_bytes_per_second") },
    ],
  },
  {
    name: "Network",
    unit: "bytes",
    form: "mirrored",
    layers: [
      { key: "received", label: "In", past: average("perigee_host_network_receive_bytes_per_second") },
      { key: "sent", label: "Out", past: average("perigee_host_network_transmit_bytes_per_second") },
    ],
  },
  {
    name: "Pressure",
    unit: "share",
    form: "lines",
    layers: [
      { key: "waits_cpu", label: "CPU", past: waiting("cpu") },
      { key: "waits_io", label: "I/O", past: waiting("io") },
      { key: "waits_memory", label: "Memory", past: waiting("memory") },
    ],
  },
  {
    name: "Temperature",
    unit: "celsius",
    form: "lines",
    layers: [{ key: "hottest", label: "Hottest", past: (host) => `max(${of(host, "node_hwmon_temp_celsius")})` }],
  },
];

interface Totals {
  at: number;
  byMode: Map<string, number>;
  waiting: Map<string, number | undefined>;
}

const CPU_LAYERS: [string, string[]][] = [
  ["user", ["user", "nice"]],
  ["system", ["system", "irq", "softirq", "steal"]],
  ["iowait", ["iowait"]],
];

/** Turns the values of one host's stream into samples; totals need the ones before. */
export class Sampler {
  private before: Totals | undefined;

  next(stream: Stream): Sample {
    const now = totals(stream);
    const before = this.before && this.before.at < now.at ? this.before : undefined;
    this.before = now;
    const sample: Sample = {};
    const grown = (mode: string) => (now.byMode.get(mode) ?? 0) - (before?.byMode.get(mode) ?? 0);
    const all = before ? [...now.byMode.keys()].reduce((sum, mode) => sum + grown(mode), 0) : 0;
    for (const [key, modes] of CPU_LAYERS) {
      const share = modes.reduce((sum, mode) => sum + grown(mode), 0) / all;
      sample[key] = all > 0 ? Math.min(1, Math.max(0, share)) : undefined;
    }
    for (const what of ["cpu", "io", "memory"]) {
      const [later, earlier] = [now.waiting.get(what), before?.waiting.get(what)];
      const seconds = before ? (now.at - before.at) / 1000 : 0;
      sample[`waits_${what}`] = later === undefined || earlier === undefined || later < earlier ? undefined : (later - earlier) / seconds;
    }
    const total = stream.one("node_memory_MemTotal_bytes");
    const free = stream.one("node_memory_MemFree_bytes");
    const available = stream.one("node_memory_MemAvailable_bytes");
    if (total && available !== undefined) {
      sample.used = 1 - available / total;
      sample.cache = free === undefined ? undefined : (available - free) / total;
    }
    sample.read = stream.one("perigee_host_disk_read_bytes_per_second");
    sample.written = stream.one("perigee_host_disk_written_bytes_per_second");
    sample.received = stream.one("perigee_host_network_receive_bytes_per_second");
    sample.sent = stream.one("perigee_host_network_transmit_bytes_per_second");
    const degrees = [...stream.of("node_hwmon_temp_celsius")].map(([, value]) => value);
    sample.hottest = degrees.length > 0 ? Math.max(...degrees) : undefined;
    return sample;
  }
}

function totals(stream: Stream): Totals {
  const byMode = new Map<string, number>();
  for (const [labels, value] of stream.of("node_cpu_seconds_total")) {
    const mode = labels.mode ?? "";
    byMode.set(mode, (byMode.get(mode) ?? 0) + value);
  }
  const waiting = new Map(["cpu", "io", "memory"].map((what) => [what, stream.one(`node_pressure_${what}_waiting_seconds_total`)] as const));
  return { at: stream.at, byMode, waiting };
}
