// State marks: the shape alone tells the state. And icons, in a box of 16.

import type { State } from "../store/fleet";

export const SHAPES: Record<State, string> = {
  ok: '<circle cx="6" cy="6" r="3.6" fill="currentColor"/>',
  info: '<rect x="2.4" y="2.4" width="7.2" height="7.2" rx=".6" fill="currentColor"/>',
  warning: '<path d="M6 1.3 11.2 10.6H.8Z" fill="currentColor"/>',
  critical: '<path d="M6 .4 11.6 6 6 11.6.4 6Z" fill="currentColor"/>',
  unknown: '<circle cx="6" cy="6" r="4.1" fill="none" stroke="currentColor" stroke-width="1.6" stroke-dasharray="4.3 2.14"/>',
  maint: '<rect x="1" y="4.2" width="10" height="3.6" rx=".6" fill="currentColor"/>',
  off: '<path d="m3 3 6 6m0-6-6 6" stroke="currentColor" stroke-width="1.6"/>',
  run: '<circle cx="6" cy="6" r="4.1" fill="none" stroke="currentColor" stroke-width="1.4"/><path d="M6 1.9a4.1 4.1 0 0 1 0 8.2Z" fill="currentColor"/>',
};

export const WORDS: Record<State, string> = {
  ok: "ok",
  info: "information",
  warning: "warning",
  critical: "critical",
  unknown: "unknown",
  maint: "maintenance",
  off: "off",
  run: "running",
};

export const ICONS = {
  overview: '<path d="M1.5 12.5h13M3.5 10V7m3 3V3.5m3 6.5V5.5m3 4.5V8"/>',
  hosts:
    '<rect x="1.7" y="2.5" width="12.6" height="4.7" rx="1"/><rect x="1.7" y="8.8" width="12.6" height="4.7" rx="1"/><path d="M4.5 4.85h.01M4.5 11.15h.01M8 4.85h3.5M8 11.15h3.5"/>',
  vms: '<rect x="1.7" y="1.7" width="12.6" height="12.6" rx="1.5"/><rect x="5" y="5" width="6" height="6" rx=".6"/>',
  search: '<circle cx="7" cy="7" r="4.3"/><path d="m10.3 10.3 3.7 3.7"/>',
  right: '<path d="m6 3.5 4.5 4.5L6 12.5"/>',
  moon: '<path d="M13.5 9.5A6 6 0 1 1 6.5 2.5a4.8 4.8 0 0 0 7 7Z"/>',
  leave: '<path d="M6.5 2.5h-4v11h4M10.5 5l3 3-3 3m3-3h-8"/>',
};

export const LOGO =
  '<ellipse cx="10" cy="10" rx="8.6" ry="5.6" transform="rotate(-28 10 10)" stroke="currentColor" stroke-width="1.3"/><circle cx="6.9" cy="11.7" r="2.3" fill="currentColor"/><circle cx="2.6" cy="14.2" r="1.7" fill="var(--accent)"/>';

/** The mark of a guest: its status, and whether it runs with a problem. */
export function guestState({ status, problem }: { status: string; problem?: unknown }): State {
  switch (status) {
    case "running":
      return problem ? "warning" : "ok";
    case "failed":
      return "critical";
    case "paused":
    case "suspended":
      return "maint";
    case "stopped":
    case "deleted":
      return "off";
    case "unknown":
      return "unknown";
    default:
      return "run";
  }
}

/** The mark of a task's state. */
export function taskState(state: string): State {
  switch (state) {
    case "succeeded":
      return "ok";
    case "failed":
    case "dead":
      return "critical";
    case "cancelled":
      return "off";
    default:
      return "run";
  }
}
