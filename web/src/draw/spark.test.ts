import { expect, test } from "vitest";
import { spark } from "./spark";

test("a line goes from edge to edge", () => {
  const drawn = spark([0, 50, 100], 103, 23.5, 0, 100);
  expect(drawn.line).toBe("M0.5 22L50.5 12L100.5 2");
  expect([drawn.end, drawn.missingFrom]).toEqual([{ x: 100.5, y: 2 }, undefined]);
});

test("a gap is a gap, and an end before the edge shows", () => {
  const drawn = spark([1, null, 1, null], 33, 10, 0, 1);
  expect(drawn.line.match(/M/g)?.length).toBe(2);
  expect([drawn.end, drawn.missingFrom]).toEqual([undefined, 20.5]);
  expect(spark([null, null], 33, 10, 0, 1)).toEqual({ line: "", area: "", end: undefined, missingFrom: undefined });
});
