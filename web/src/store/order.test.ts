import { expect, test } from "vitest";
import { kept, ordered } from "./order";

test("numbers by size, text as people count, the unknown last both ways", () => {
  const names = ["hv-10", undefined, "hv-9", "Alpha"];
  expect(ordered(names, (name) => name, false)).toEqual(["Alpha", "hv-9", "hv-10", undefined]);
  expect(ordered(names, (name) => name, true)).toEqual(["hv-10", "hv-9", "Alpha", undefined]);
  expect(ordered([3, undefined, 20, 0], (n) => n, true)).toEqual([20, 3, 0, undefined]);
  expect(ordered([{ n: 1, k: "a" }, { n: 1, k: "b" }], (row) => row.n, true).map((row) => row.k).join("")).toBe("ab");
});

test("rows keep their places while they are pointed at", () => {
  const fresh = ["c", "a", "new", "b"].map((key) => ({ key }));
  const { rows, moved } = kept(["a", "b", "gone", "c"], fresh);
  expect([rows.map((row) => row.key).join(" "), moved]).toEqual(["a b c new", 4]);
  expect(kept(["c", "a", "new", "b"], fresh).moved).toBe(0);
});
