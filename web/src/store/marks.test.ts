import { expect, test } from "vitest";
import type { AuditEvent, Task } from "../protocol/types";
import { deeds, markAt, marks, said } from "./marks";

const event = (second: number, verb: string, detail: string, actor = "ann"): AuditEvent => ({ seq: second, id: "", at: new Date(second * 1000).toISOString(), actor, verb, noun: "guest", subject_id: "0123456789abcdef", detail });
const task = (second: number, state: Task["state"]): Task => ({ id: "t", kind: "vm:create", state, owner: "ann", created_at: new Date(second * 1000).toISOString(), problem: { code: "PRG-2001", detail: "no host has room" } });

test("audit events lie on the time line, and of tasks only what failed", () => {
  const done = deeds([task(2, "failed"), task(3, "succeeded")], [event(1, "guest.create", "web from base"), event(4, "host.run", "", "host:0123456789abcdef")], new Map([["0123456789abcdef", "hv-1"]]));
  expect(done.map((deed) => [deed.at, deed.text, deed.failed])).toEqual([
    [1000, "guest create web from base, by ann", false],
    [2000, "create failed: no host has room", true],
    [4000, "host run hv-1, by hv-1", false],
  ]);
});

test("near deeds share a mark, which tells failures first and counts what it does not tell", () => {
  const done = deeds([task(11, "dead")], [0, 10, 11, 12, 12, 12, 12, 500, 2000].map((at) => event(at, "guest.create", `n${at}`)), new Map());
  const all = marks(done, 0, 1000_000, 300);
  expect(all.map((mark) => [mark.x, mark.deeds.length, mark.failed])).toEqual([[0, 1, false], [3, 7, true], [150, 1, false]]);
  const lines = said(markAt(all, 5)!);
  expect(lines[0]).toBe("00:00:11 create failed: no host has room");
  expect([lines.length, lines[5]]).toEqual([6, "and 2 more"]);
  expect(markAt(all, 80)).toBeUndefined();
});
