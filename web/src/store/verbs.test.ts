import { expect, test } from "vitest";
import type { Guest } from "../protocol/types";
import { VERBS, verbsOf, whyNot } from "./verbs";

test("each state takes what makes sense in it, and says why not the rest", () => {
  const states = ["pending", "waiting", "starting", "running", "suspended", "stopping", "stopped", "failed", "deleting", "unknown"];
  const table = states.map((status) => `${status}: ${VERBS.filter(({ verb }) => !whyNot(verb, status)).map(({ verb }) => verb).join(" ")}`);
  expect(table).toEqual([
    "pending: delete",
    "waiting: delete",
    "starting: stop delete",
    "running: pause restart stop delete release",
    "suspended: resume stop delete release",
    "stopping: stop delete",
    "stopped: start delete release",
    "failed: start delete release",
    "deleting: ",
    "unknown: delete",
  ]);
  expect([whyNot("start", "running"), whyNot("pause", "unknown"), whyNot("start", "dreaming")]).toEqual(["it runs", "its host does not answer", "it is dreaming"]);
});

test("what was made is deleted, what was taken over is let go, a sandbox has no switch", () => {
  const asked = (guest: Partial<Guest>) => verbsOf(guest as Guest).map(({ verb }) => verb);
  expect(asked({ kind: "vm" })).toEqual(["start", "resume", "pause", "restart", "stop", "delete"]);
  expect(asked({ kind: "vm", adopted: true })).toEqual(["start", "resume", "pause", "restart", "stop", "release"]);
  expect(asked({ kind: "sandbox" })).toEqual(["delete"]);
});
