// The strips of one guest, from the `vm` stream of its host.

import type { Sample, Strip } from "./strips";
import type { Stream } from "./streams";

/** A guest has several disks and network cards: their sum. */
const sum = (name: string) => (guest: string, window: string) => `sum(avg_over_time(${name}{guest="${guest}"}[${window}]))`;

const LAYERS: [string, string][] = [
  ["cores", "perigee_guest_cpu_cores"],
  ["resident", "perigee_guest_memory_resident_bytes"],
  ["usable", "perigee_guest_memory_usable_bytes"],
  ["read", "perigee_guest_disk_read_bytes_per_second"],
  ["written", "perigee_guest_disk_written_bytes_per_second"],
  ["received", "perigee_guest_network_receive_bytes_per_second"],
  ["sent", "perigee_guest_network_transmit_bytes_per_second"],
];
const METRICS = new Map(LAYERS);
const layer = (key: string, label: string) => ({ key, label, past: sum(METRICS.get(key)!) });

/** `cpus` and `memory`: what it was given; the tops of its scales. */
export function guestStrips(cpus: number | undefined, memory: number | undefined): Strip[] {
  return [
    { name: "CPU", unit: "cores", form: "lines", layers: [layer("cores", "Used")], ...(cpus ? { most: cpus } : {}) },
    { name: "Memory", unit: "size", form: "lines", layers: [layer("resident", "Resident"), layer("usable", "Free")], ...(memory ? { most: memory * 1.05 } : {}) },
    { name: "Disk", unit: "bytes", form: "mirrored", layers: [layer("read", "Read"), layer("written", "Write")] },
    { name: "Network", unit: "bytes", form: "mirrored", layers: [layer("received", "In"), layer("sent", "Out")] },
  ];
}

export function guestSample(vm: Stream, guest: string): Sample {
  return Object.fromEntries(LAYERS.map(([key, name]) => [key, vm.sum(name, (labels) => labels.guest === guest)]));
}
