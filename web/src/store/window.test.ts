import { expect, test } from "vitest";
import { reach, windowOf } from "./window";

test("of 2,000 rows only those that show are drawn, and the list keeps its length", () => {
  expect(windowOf(2000, 32, -80, 800)).toEqual({ first: 0, count: 31, before: 0, after: 1969 * 32 });
  expect(windowOf(2000, 32, 3200, 800)).toEqual({ first: 92, count: 41, before: 92 * 32, after: 1867 * 32 });
  expect(windowOf(2000, 32, 63200, 800)).toEqual({ first: 1967, count: 33, before: 1967 * 32, after: 0 });
});

test("whatever is scrolled, every row that shows is drawn and nothing is drawn twice", () => {
  for (const total of [0, 1, 7, 40, 2000])
    for (const row of [26, 32, 48])
      for (const height of [0, 300, 844])
        for (let scrolled = -200; scrolled < total * row + 500; scrolled += 37) {
          const { first, count, before, after } = windowOf(total, row, scrolled, height);
          expect(before + count * row + after).toBe(total * row);
          const seen = (place: number) => (place + 1) * row > scrolled && place * row < scrolled + height;
          for (const place of [first - 1, first + count]) if (place >= 0 && place < total) expect(seen(place), `${place} of ${total}`).toBe(false);
          expect(count).toBeLessThanOrEqual(Math.ceil(height / row) + 1 + 16);
        }
});

test("a row is reached by the shortest way, and not from under the head", () => {
  expect(reach(0, 32, 100, 800, 28)).toBe(-128);
  expect(reach(10, 32, 0, 800, 28)).toBe(0);
  expect(reach(30, 32, 0, 800, 28)).toBe(31 * 32 - 800);
  expect(reach(3, 32, 64, 800, 28)).toBe(0);
});
