// What the command palette knows, and how it finds it.

import { guestState } from "../draw/icons";
import type { ForeignVm, Guest } from "../protocol/types";
import type { State } from "./fleet";
import { strangers } from "./vms";

export type Kind = "Screens" | "Hosts" | "Virtual machines" | "Sandboxes" | "Actions";

export interface Entry {
  /** Tells it apart, also tomorrow. */
  key: string;
  kind: Kind;
  title: string;
  detail: string;
  state?: State;
  /** The address to go to, or what to do. */
  run: string | (() => void);
}

/** Before a query: only of this kind. */
export const SIGILS: [string, Kind[]][] = [
  [">", ["Actions", "Screens"]],
  ["@", ["Hosts"]],
  ["#", ["Virtual machines", "Sandboxes"]],
];
const ORDER: Kind[] = ["Actions", "Screens", "Hosts", "Virtual machines", "Sandboxes"];
/** Of each kind. */
const SHOWN = 6;

export function guestEntries(guests: Guest[], foreign: ForeignVm[]): Entry[] {
  const ours = guests.map((guest): Entry => {
    const kind = guest.kind === "vm" ? "Virtual machines" : "Sandboxes";
    return { key: guest.id, kind, title: guest.name, detail: guest.host ? `${guest.status} on ${guest.host}` : guest.status, state: guestState(guest), run: `/vms/${encodeURIComponent(guest.name)}` };
  });
  const theirs = strangers(guests, foreign).map((vm): Entry => ({ key: vm.id, kind: "Virtual machines", title: vm.name, detail: `${vm.status} on ${vm.host}, of ${vm.driver}`, state: guestState(vm), run: `/vms/${vm.id}` }));
  return [...ours, ...theirs];
}

function words(query: string): string[] {
  return query.toLowerCase().split(/\s+/).filter(Boolean);
}

/** Lower is better; undefined: not what is looked for. A beginning counts more than a middle, the title more than the detail. */
function rank(entry: Entry, wanted: string[]): number | undefined {
  const title = entry.title.toLowerCase();
  const all = `${title} ${entry.detail} ${entry.kind}`.toLowerCase();
  let sum = title.length / 1000;
  for (const word of wanted) {
    const at = title.indexOf(word);
    if (at < 0 && !all.includes(word)) return undefined;
    if (at < 0) sum += 3;
    else if (at > 0) sum += /[\w]/.test(title[at - 1]!) ? 2 : 1;
  }
  return sum;
}

/** What fits, by kind, the best first. Without a query: what was opened lately, then screens and actions. */
export function findEntries(entries: Entry[], query: string, recent: string[]): Entry[] {
  const [sigil, kinds] = SIGILS.find(([one]) => query.startsWith(one)) ?? ["", ORDER];
  const wanted = words(query.slice(sigil.length));
  if (wanted.length === 0 && sigil === "") {
    const lately = recent.flatMap((key) => entries.find((entry) => entry.key === key) ?? []);
    return [...lately, ...entries.filter((entry) => (entry.kind === "Screens" || entry.kind === "Actions") && !recent.includes(entry.key))];
  }
  return ORDER.filter((kind) => kinds.includes(kind)).flatMap((kind) => {
    const fitting = entries.filter((entry) => entry.kind === kind).flatMap((entry) => {
      const value = rank(entry, wanted);
      return value === undefined ? [] : [{ entry, value }];
    });
    return fitting.sort((a, b) => a.value - b.value).slice(0, SHOWN).map(({ entry }) => entry);
  });
}

/** A title in pieces; every second one is what was looked for. */
export function marked(title: string, query: string): string[] {
  const wanted = words(query.replace(/^[>@#]/, "")).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return wanted.length === 0 ? [title] : title.split(new RegExp(`(${wanted.join("|")})`, "i"));
}
