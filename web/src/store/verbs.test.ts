import { expect, test } from "vitest";
import { VERBS, whyNot } from "./verbs";

test("each state takes what makes sense in it, and says why not the rest", () => {
  const states = ["pending", "waiting", "starting", "running", "suspended", "stopping", "stopped", "failed", "deleting", "unknown"];
  const table = states.map((status) => `${status}: ${VERBS.filter(({ verb }) => !whyNot(verb, status)).map(({ verb }) => verb).join(" ")}`);
  expect(table).toEqual([
    "pending: delete",
    "waiting: delete",
    "starting: stop delete",
    "running: pause restart stop delete",
    "suspended: resume stop delete",
    "stopping: stop delete",
    "stopped: start delete",
    "failed: start delete",
    "deleting: ",
    "unknown: delete",
  ]);
  expect([whyNot("start", "running"), whyNot("pause", "unknown"), whyNot("start", "dreaming")]).toEqual(["it runs", "its host does not answer", "it is dreaming"]);
});
