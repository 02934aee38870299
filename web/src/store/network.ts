// A sandbox's card in words: what it may reach, and where it is reached.

import type { Guest } from "../protocol/types";

/** Without a card there is nothing to say. */
export function reach(egress: string[] | undefined): string | undefined {
  if (egress === undefined) return undefined;
  if (egress[0] === "none") return "nothing";
  return egress[0] === "all" ? "the public internet" : egress.join(", ");
}

/** Each port of its host that leads to it, and to which of its own. */
export function forwardWords(guest: Guest): string[] {
  const from = guest.host === undefined ? "its host" : guest.host;
  return (guest.forwards ?? []).map((one) => {
    const protocol = one.protocol === "tcp" ? "" : ` ${one.protocol}`;
    const to = one.host_port === one.guest_port ? "" : ` → ${one.guest_port}`;
    return `${from}:${one.host_port}${protocol}${to}${one.up ? "" : " (not now)"}`;
  });
}
