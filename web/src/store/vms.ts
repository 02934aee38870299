// The rows of Virtual machines: ours, and those of hosts' own libvirt.

import type { ForeignVm, Guest } from "../protocol/types";
import { guestState } from "../draw/icons";
import type { Column, ListRow } from "./columns";
import type { State } from "./fleet";
import type { GuestUsage } from "./usage";

export interface VmRow extends ListRow {
  name: string;
  /** Perigee made it; others are only shown. */
  ours: boolean;
  status: string;
  state: State;
  /** What it waits for, or why it failed. */
  note: string;
  host: string | undefined;
  cpus: number | undefined;
  memory: number | undefined;
  cores: number | undefined;
  resident: number | undefined;
}

/** The two lists are not read at one moment: what was just taken over, or let go, is in both for a while. */
export function strangers(guests: Guest[], foreign: ForeignVm[]): ForeignVm[] {
  const ours = new Set(guests.map(({ id }) => id));
  return foreign.filter(({ id }) => !ours.has(id));
}

export function vmRows(guests: Guest[], foreign: ForeignVm[], usage: Map<string, GuestUsage>): VmRow[] {
  const ours = guests
    .filter((guest) => guest.kind === "vm")
    .map((guest) => row({ ...guest, key: guest.id, ours: true, note: guest.problem?.detail ?? guest.note ?? "", memory: guest.memory_bytes }, usage, { ...guest.labels, image: guest.image, address: guest.addresses?.join(" ") }));
  const theirs = strangers(guests, foreign).map((vm) => row({ ...vm, key: vm.id, ours: false, note: vm.busy ? "busy with somebody's work on it" : "", memory: vm.memory_bytes }, usage, { driver: vm.driver }));
  return [...ours, ...theirs];
}

interface Told {
  key: string;
  name: string;
  ours: boolean;
  status: string;
  problem?: unknown;
  note: string;
  host?: string;
  cpus?: number;
  memory: number | undefined;
}

function row(told: Told, usage: Map<string, GuestUsage>, fields: Record<string, string | undefined>): VmRow {
  const { key, name, ours, status, note, host, cpus, memory } = told;
  const { cores, resident } = usage.get(key) ?? { cores: undefined, resident: undefined };
  const share = (part: number | undefined, whole: number | undefined) => (part === undefined || !whole ? undefined : (part / whole) * 100);
  const found = { ...fields, name, status, host, origin: ours ? "perigee" : "foreign", cpus, cpu: share(cores, cpus), memory: share(resident, memory) };
  // Two hosts' libvirts may use one name: an id never means two.
  const open = `/vms/${encodeURIComponent(ours ? name : key)}`;
  return { key, open, found: { text: name, fields: found }, name, ours, status, state: guestState(told), note, host, cpus, memory, cores, resident };
}

export const VM_COLUMNS: Column<VmRow>[] = [
  { name: "name", title: "Name", value: (row) => row.name },
  { name: "status", title: "Status", width: 250, narrow: 90, value: (row) => row.status },
  { name: "host", title: "Host", width: 130, wide: true, value: (row) => row.host },
  { name: "", title: "Last 15 min", width: 120, wide: true },
  { name: "cpu", title: "CPU", width: 110, numeric: true, value: (row) => row.cores },
  { name: "cpus", title: "of", width: 50, numeric: true, wide: true, value: (row) => row.cpus },
  { name: "memory", title: "Memory", width: 110, numeric: true, value: (row) => row.resident },
  { name: "given", title: "of", width: 90, numeric: true, wide: true, value: (row) => row.memory },
];
