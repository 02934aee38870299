// The rows of Hosts.

import type { Host } from "../protocol/types";
import type { Column, ListRow } from "./columns";
import { hostState, measuredAt, type Fleet, type State } from "./fleet";

export interface HostRow extends ListRow {
  host: Host;
  state: State;
  at: number | undefined;
  cpu: number | undefined;
  memory: number | undefined;
  total: number | undefined;
  load: number | undefined;
  received: number | undefined;
  sent: number | undefined;
}

const percent = (share: number | undefined) => (share === undefined ? undefined : share * 100);

export function hostRow(fleet: Fleet, host: Host, now: number): HostRow {
  const stream = fleet.streams.get(host.id, "node");
  const value = (name: string) => stream?.one(name);
  const at = measuredAt(fleet, host);
  const total = value("perigee_host_memory_total_bytes") ?? host.load?.memory_total_bytes;
  const used = value("perigee_host_memory_used_bytes") ?? host.load?.memory_used_bytes;
  const state = hostState(host, at, now);
  const cpu = value("perigee_host_cpu_usage_ratio") ?? host.load?.cpu_usage_ratio;
  const memory = total && used !== undefined ? used / total : undefined;
  const load = value("node_load1") ?? host.load?.load1;
  return {
    key: host.id,
    open: `/hosts/${encodeURIComponent(host.name)}`,
    found: {
      text: host.name,
      fields: { ...host.labels, name: host.name, status: `${host.status} ${state}`, arch: host.inventory?.arch, os: host.inventory?.os, agent: host.inventory?.agent_version, cpu: percent(cpu), memory: percent(memory), load, guests: host.guests },
    },
    host,
    state,
    at,
    cpu,
    memory,
    total,
    load,
    received: value("perigee_host_network_receive_bytes_per_second"),
    sent: value("perigee_host_network_transmit_bytes_per_second"),
  };
}

export const HOST_COLUMNS: Column<HostRow>[] = [
  { name: "name", title: "Name", value: (row) => row.host.name },
  { name: "", title: "Last 15 min", width: 120, wide: true },
  { name: "cpu", title: "CPU", unit: "%", width: 112, numeric: true, value: (row) => row.cpu },
  { name: "load", title: "Load", width: 72, numeric: true, wide: true, value: (row) => row.load },
  { name: "memory", title: "Memory", unit: "%", width: 112, numeric: true, value: (row) => row.memory },
  { name: "in", title: "In", width: 104, numeric: true, wide: true, value: (row) => row.received },
  { name: "out", title: "Out", width: 104, numeric: true, wide: true, value: (row) => row.sent },
  { name: "guests", title: "Guests", width: 80, numeric: true, wide: true, value: (row) => row.host.guests },
  { name: "measured", title: "Measured", width: 104, numeric: true, value: (row) => row.at },
];
