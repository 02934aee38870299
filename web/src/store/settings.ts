// The form in which a VM's settings are changed: text in, a merge patch out.

import type { Guest, GuestPatch } from "../protocol/types";

export const RESTARTS: [string, string][] = [
  ["always", "always"],
  ["on_failure", "unless it turned itself off"],
  ["never", "never"],
];
const MIB = 1 << 20;

export interface Settings {
  name: string;
  description: string;
  /** One `name=value` a line. */
  labels: string;
  cpus: string;
  memoryMib: string;
  restart: string;
  startOrder: string;
}

export function settingsOf(guest: Guest): Settings {
  return {
    name: guest.name,
    description: guest.description ?? "",
    labels: Object.entries(guest.labels)
      .map(([name, value]) => `${name}=${value}`)
      .join("\n"),
    cpus: String(guest.cpus),
    memoryMib: String(guest.memory_bytes / MIB),
    restart: guest.restart ?? "",
    startOrder: String(guest.start_order ?? 0),
  };
}

function labels(text: string): Record<string, string> {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.fromEntries(lines.map((line) => [line.split("=")[0]!.trim(), line.split("=").slice(1).join("=").trim()]));
}

/** What of it changed. The control plane judges the values. */
export function patchOf(guest: Guest, form: Settings): GuestPatch {
  const was = settingsOf(guest);
  const patch: GuestPatch = {};
  if (form.name !== was.name) patch.name = form.name.trim();
  if (form.description !== was.description) patch.description = form.description;
  if (form.cpus !== was.cpus) patch.cpus = Number(form.cpus);
  if (form.memoryMib !== was.memoryMib) patch.memory_bytes = Number(form.memoryMib) * MIB;
  if (form.restart !== was.restart) patch.restart = form.restart;
  if (form.startOrder !== was.startOrder) patch.start_order = Number(form.startOrder);
  const next = labels(form.labels);
  const names = [...new Set([...Object.keys(guest.labels), ...Object.keys(next)])];
  const changed = names.filter((name) => next[name] !== guest.labels[name]);
  if (changed.length > 0) patch.labels = Object.fromEntries(changed.map((name) => [name, next[name] ?? null]));
  return patch;
}
