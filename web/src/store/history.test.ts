import { expect, test } from "vitest";
import { fine, History, rangeOf } from "./history";
import { Sampler } from "./strips";
import { Stream } from "./streams";

test("a range has no more points than can be seen", () => {
  expect(rangeOf(900_000, 1_000_000).step).toBe(1000);
  expect(rangeOf(86_400_000, 0).step).toBe(72_000);
  expect(fine(rangeOf(900_000, 1_000_000))).toBe(1000);
  expect(fine(rangeOf(86_400_000, 0))).toBe(9000);
  expect(fine(rangeOf(604_800_000, 0))).toBe(300_000);
});

test("the past lies below what came meanwhile", () => {
  const history = new History(["a", "b"], { from: 0, to: 10_000, step: 1000 });
  history.append(9000, { a: 9, b: 1 });
  history.append(10_000, { a: 10 });
  history.fill(new Map([["a", [[7000, 7], [8000, 8]]], ["b", [[8000, 80]]]]));
  expect(history.times).toEqual([7000, 8000, 9000, 10_000]);
  expect(history.values("a")).toEqual([7, 8, 9, 10]);
  expect(history.values("b")).toEqual([null, 80, 1, null]);
});

test("what is nearer than a step replaces the last, and what is old goes", () => {
  const history = new History(["a"], { from: 0, to: 4000, step: 1000 });
  for (const at of [1000, 2000, 2200, 2400, 3300, 8000, 8000]) history.append(at, { a: at });
  expect(history.times).toEqual([3300, 8000]);
});

test("a gap is a hole, never a line", () => {
  const history = new History(["a"], { from: 0, to: 60_000, step: 1000 });
  for (const at of [5000, 6000, 40_000, 41_000]) history.append(at + 19_000, { a: 1 });
  expect(history.gaps()).toEqual([[0, 24_000], [25_000, 59_000]]);
  expect(history.plotted(["a"])).toEqual([[12_000, 24_000, 25_000, 42_000, 59_000, 60_000], [null, 1, 1, null, 1, 1]]);
});

test("shares of CPU come from totals, and not across a restart", () => {
  const at = (ms: number, user: number, idle: number) => {
    const series = ["user", "idle"].map((mode) => ({ name: "node_cpu_seconds_total", labels: { mode }, kind: "counter" }));
    return Stream.of({ host: "h", stream: "node", at: ms, series, values: [user, idle] });
  };
  const sampler = new Sampler();
  expect(sampler.next(at(1000, 10, 90)).user).toBeUndefined();
  expect(sampler.next(at(2000, 11, 93)).user).toBe(0.25);
  expect(sampler.next(at(3000, 0, 1)).user).toBeUndefined();
});
