// The rows of Host's tables, from the latest values of its streams.

import { guestState } from "../draw/icons";
import type { ForeignVm, Guest } from "../protocol/types";
import type { State } from "./fleet";
import type { Stream } from "./streams";

export interface ProcessRow {
  key: string;
  name: string;
  cores: number | undefined;
  resident: number | undefined;
}

/** The agent names the busiest and the largest; one that is both has both numbers. */
export function processes(node: Stream): ProcessRow[] {
  const rows = new Map<string, ProcessRow>();
  const row = (labels: Record<string, string>) => {
    const key = labels.pid ?? "";
    const known = rows.get(key) ?? { key, name: labels.name ?? labels.comm ?? key, cores: undefined, resident: undefined };
    rows.set(key, known);
    return known;
  };
  for (const [labels, value] of node.of("perigee_process_cpu_cores")) row(labels).cores = value;
  for (const [labels, value] of node.of("perigee_process_resident_memory_bytes")) row(labels).resident = value;
  return [...rows.values()].sort((a, b) => (b.cores ?? 0) - (a.cores ?? 0) || (b.resident ?? 0) - (a.resident ?? 0)).slice(0, 8);
}

export interface MountRow {
  key: string;
  device: string;
  size: number;
  used: number;
}

/** File systems, each device once, under its shortest mount point. */
export function mounts(node: Stream): MountRow[] {
  const free = new Map([...node.of("node_filesystem_avail_bytes")].map(([labels, value]) => [labels.mountpoint, value]));
  const rows = new Map<string, MountRow>();
  for (const [labels, size] of node.of("node_filesystem_size_bytes")) {
    const key = labels.mountpoint ?? "";
    const device = labels.device ?? key;
    const left = free.get(key);
    const known = rows.get(device);
    if (size > 0 && left !== undefined && (!known || known.key.length > key.length)) rows.set(device, { key, device, size, used: 1 - left / size });
  }
  return [...rows.values()].sort((a, b) => b.used - a.used).slice(0, 8);
}

export interface NicRow {
  key: string;
  up: boolean | undefined;
  bitsPerSecond: number | undefined;
  received: number | undefined;
  sent: number | undefined;
  errors: number;
}

/** Totals of network cards become rates against the values before. */
export class Nics {
  private before = new Map<string, { at: number; received: number; sent: number }>();
  private rows: NicRow[] = [];
  private at = 0;

  next(node: Stream): NicRow[] {
    if (node.at === this.at) return this.rows;
    const by = (name: string) => new Map([...node.of(name)].map(([labels, value]) => [labels.device ?? "", value]));
    const [received, sent] = [by("node_network_receive_bytes_total"), by("node_network_transmit_bytes_total")];
    const [up, speed] = [by("node_network_up"), by("node_network_speed_bytes")];
    const [bad, worse] = [by("node_network_receive_errs_total"), by("node_network_transmit_errs_total")];
    this.rows = [...received.keys()].filter((key) => key !== "lo").map((key) => {
      const now = { at: node.at, received: received.get(key) ?? 0, sent: sent.get(key) ?? 0 };
      const then = this.before.get(key);
      this.before.set(key, now);
      const seconds = then ? (now.at - then.at) / 1000 : 0;
      const rate = (later: number, earlier: number) => (seconds > 0 && later >= earlier ? (later - earlier) / seconds : undefined);
      const bytes = speed.get(key);
      return {
        key,
        up: up.has(key) ? up.get(key) === 1 : undefined,
        bitsPerSecond: bytes ? bytes * 8 : undefined,
        received: then ? rate(now.received, then.received) : undefined,
        sent: then ? rate(now.sent, then.sent) : undefined,
        errors: (bad.get(key) ?? 0) + (worse.get(key) ?? 0),
      };
    });
    this.at = node.at;
    return this.rows;
  }
}

export interface GuestRow {
  key: string;
  /** The address of its page. */
  open: string;
  name: string;
  status: string;
  state: State;
  kind: string;
  cpus: number | undefined;
  memory: number | undefined;
  cores: number | undefined;
  resident: number | undefined;
}

export function guestRows(guests: Guest[], foreign: ForeignVm[], vm: Stream | undefined): GuestRow[] {
  const by = (name: string) => new Map(vm ? [...vm.of(name)].map(([labels, value]) => [labels.guest ?? "", value]) : []);
  const [cores, resident] = [by("perigee_guest_cpu_cores"), by("perigee_guest_memory_resident_bytes")];
  const ours = guests.map((guest) => ({ key: guest.id, open: `/vms/${encodeURIComponent(guest.name)}`, name: guest.name, status: guest.status, state: guestState(guest), kind: guest.kind, cpus: guest.cpus, memory: guest.memory_bytes }));
  const theirs = foreign.map((vm) => ({ key: vm.id, open: `/vms/${vm.id}`, name: vm.name, status: vm.status, state: guestState(vm), kind: `VM of ${vm.driver}`, cpus: vm.cpus, memory: vm.memory_bytes }));
  const rows = [...ours, ...theirs].map((row) => ({ ...row, cores: cores.get(row.key), resident: resident.get(row.key) }));
  return rows.sort((a, b) => (b.cores ?? 0) - (a.cores ?? 0) || a.name.localeCompare(b.name));
}
