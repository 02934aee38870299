// Where the reader is: everything that is chosen is in the address.

import { Cell } from "./cell";

export type Screen = { name: "overview" } | { name: "hosts" } | { name: "host"; host: string } | { name: "vms" } | { name: "vm"; vm: string } | { name: "nowhere" };

export interface Route {
  screen: Screen;
  /** Length of the charts' time, in milliseconds. */
  range: number;
  /** The end of the charts' time; undefined: now. */
  at: number | undefined;
  /** What a list shows, and in which order: a column's name, after a minus when the greatest comes first. */
  query: string;
  sort: string;
  /** Which of the views of an object; "": the first. */
  view: string;
}

/** Of a VM. */
export const VIEWS: [string, string][] = [
  ["charts", "Charts"],
  ["serial", "Serial console"],
  ["screen", "Screen"],
];

export const RANGES: [string, number][] = [
  ["15 min", 900_000],
  ["1 h", 3_600_000],
  ["6 h", 21_600_000],
  ["24 h", 86_400_000],
  ["7 d", 604_800_000],
];

export function parse(path: string, search: string): Route {
  const query = new URLSearchParams(search);
  const range = RANGES.find(([name]) => name.replace(" ", "") === query.get("range"))?.[1] ?? RANGES[0]![1];
  const at = Date.parse(query.get("at") ?? "");
  const parts = path.split("/").filter(Boolean);
  let screen: Screen = { name: "nowhere" };
  if (parts.length === 0) screen = { name: "overview" };
  else if (parts[0] === "hosts" && parts.length === 1) screen = { name: "hosts" };
  else if (parts[0] === "hosts" && parts.length === 2) screen = { name: "host", host: decodeURIComponent(parts[1]!) };
  else if (parts[0] === "vms" && parts.length === 1) screen = { name: "vms" };
  else if (parts[0] === "vms" && parts.length === 2) screen = { name: "vm", vm: decodeURIComponent(parts[1]!) };
  return { screen, range, at: Number.isNaN(at) ? undefined : at, query: query.get("q") ?? "", sort: query.get("sort") ?? "", view: query.get("view") ?? "" };
}

/** The address with another time; what else was chosen stays. */
export function timed(path: string, search: string, range: number, at: number | undefined): string {
  const name = RANGES.find(([, length]) => length === range)?.[0].replace(" ", "");
  return chosen(path, search, {
    range: range === RANGES[0]![1] ? undefined : name,
    at: at === undefined ? undefined : new Date(at).toISOString(),
  });
}

/** The address with these parts of its query set, or left out. */
export function chosen(path: string, search: string, parts: Record<string, string | undefined>): string {
  const query = new URLSearchParams(search);
  for (const [name, value] of Object.entries(parts)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

export const route = new Cell<Route>(parse("/", ""));

/** With `quietly` the browser's back button does not stop here: for what changes with each key. */
export function go(address: string, quietly = false): void {
  if (quietly) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  route.set(parse(location.pathname, location.search));
}

/** Follows the browser's own buttons, and links inside the page. */
export function follow(): void {
  const read = () => route.set(parse(location.pathname, location.search));
  addEventListener("popstate", read);
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
    if (!link || !plain || link.target || link.origin !== location.origin || link.hash) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
  read();
}
