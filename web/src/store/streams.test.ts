import { expect, test } from "vitest";
import { Streams } from "./streams";

const series = (name: string, labels: Record<string, string> = {}) => ({ name, labels, kind: "gauge" });

test("a snapshot is replaced by frames, column by column", () => {
  const streams = new Streams();
  const first = { host: "h", stream: "node", at: 1000, series: [series("a"), series("b", { d: "x" })], values: [1, null] };
  expect(streams.take({ type: "snapshot", sequence: 1, streams: [first] })).toEqual(["h/node"]);
  const node = streams.get("h", "node")!;
  expect([node.one("a"), node.one("b")]).toEqual([1, undefined]);
  const frame = { type: "frame" as const, sequence: 2, host: "h", stream: "node", at: 2000, reset: false };
  streams.take({ ...frame, added: [series("b", { d: "y" })], columns: [0, 1, 2], values: [null, 5, 7] });
  expect([node.one("a"), node.sum("b"), node.sum("b", (l) => l.d === "y"), node.at]).toEqual([undefined, 12, 7, 2000]);
  streams.take({ ...frame, sequence: 3, reset: true, added: [series("c")], columns: [0], values: [9] });
  expect([node.sum("b"), node.one("c")]).toEqual([undefined, 9]);
});
