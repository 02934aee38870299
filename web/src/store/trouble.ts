// What a person should look at, of what can be known without alarm rules: hosts that are silent, guests that
// failed or run with a problem, frames that were lost, collectors that fail.

import { guestState } from "../draw/icons";
import type { Guest, Host, InstantSeries } from "../protocol/types";
import type { State } from "./fleet";
import { span } from "./format";

export interface Trouble {
  /** Whose. */
  name: string;
  /** Where it is looked into. */
  open: string;
  state: State;
  what: string;
  why: string;
}

export interface Seen {
  host: Host;
  state: State;
  at: number | undefined;
}

const ofHost = (name: string) => ({ name, open: `/hosts/${encodeURIComponent(name)}` });

export function troubles(hosts: Seen[], guests: Guest[], failing: InstantSeries[], now: number): Trouble[] {
  const found: Trouble[] = [];
  for (const guest of guests) {
    const state = guestState(guest);
    if (guest.problem && (state === "critical" || state === "warning")) {
      found.push({ name: guest.name, open: `/vms/${encodeURIComponent(guest.name)}`, state, what: state === "critical" ? "Failed" : "Runs with a problem", why: guest.problem.detail });
    }
  }
  for (const { host, state, at } of hosts) {
    if (host.status === "disconnected") {
      const since = host.status_since ? span(now - Date.parse(host.status_since)) : "an unknown time";
      found.push({ ...ofHost(host.name), state: "unknown", what: `Not connected for ${since}`, why: "Its agent does not answer; its guests' state is unknown" });
    } else if (state === "unknown") {
      found.push({ ...ofHost(host.name), state, what: `No measurement for ${at ? span(now - at) : "an unknown time"}`, why: "Its agent is linked, but sends no frames" });
    }
    const lost = host.load?.frames_lost ?? 0;
    if (lost > 0) {
      found.push({ ...ofHost(host.name), state: "warning", what: `${lost} frames of measurements were lost`, why: "Its spool was full while the control plane was away" });
    }
  }
  const collectors = new Map<string, string[]>();
  for (const { metric } of failing) {
    const host = metric.host ?? "";
    collectors.set(host, [...(collectors.get(host) ?? []), metric.collector ?? "?"]);
  }
  for (const [host, names] of collectors) {
    const some = names.slice(0, 4).join(", ");
    found.push({ ...ofHost(host), state: "warning", what: `Not measured: ${some}`, why: names.length > 4 ? `and ${names.length - 4} more collectors fail` : "The collector fails or is left alone for a while" });
  }
  const order: State[] = ["critical", "unknown", "warning"];
  return found.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state) || a.name.localeCompare(b.name));
}
