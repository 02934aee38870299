// What can be asked of a guest, and why not now.

import type { Guest } from "../protocol/types";

export type Verb = "start" | "stop" | "restart" | "pause" | "resume" | "delete" | "release";

export const VERBS: { verb: Verb; title: string; doing: string }[] = [
  { verb: "start", title: "Start", doing: "Starting" },
  { verb: "resume", title: "Resume", doing: "Resuming" },
  { verb: "pause", title: "Pause", doing: "Pausing" },
  { verb: "restart", title: "Restart", doing: "Restarting" },
  { verb: "stop", title: "Stop", doing: "Stopping" },
  { verb: "delete", title: "Delete", doing: "Deleting" },
  { verb: "release", title: "Release", doing: "Releasing" },
];

/** What can be asked of this one at all: what was taken over is let go and not deleted. */
export function verbsOf(guest: Guest): typeof VERBS {
  const never: Verb = guest.adopted ? "delete" : "release";
  return VERBS.filter(({ verb }) => (guest.kind === "vm" ? verb !== never : verb === "delete"));
}

/** In which states a guest takes a verb. A guest that will not stop can be told again, by force. */
const TAKES: Record<Verb, string[]> = {
  start: ["stopped", "failed"],
  resume: ["suspended"],
  pause: ["running"],
  restart: ["running"],
  stop: ["starting", "running", "suspended", "stopping"],
  delete: ["pending", "waiting", "starting", "running", "suspended", "stopping", "stopped", "failed", "unknown"],
  release: ["running", "suspended", "stopped", "failed"],
};

const IS: Record<string, string> = {
  pending: "it is not placed yet",
  waiting: "it waits to be placed",
  starting: "it is starting",
  running: "it runs",
  suspended: "it is paused",
  stopping: "it is stopping",
  stopped: "it does not run",
  failed: "it failed",
  deleting: "it is being deleted",
  deleted: "it was deleted",
  unknown: "its host does not answer",
};

/** Why a guest in this state does not take a verb; undefined: it does. */
export function whyNot(verb: Verb, status: string): string | undefined {
  return TAKES[verb].includes(status) ? undefined : (IS[status] ?? `it is ${status}`);
}
