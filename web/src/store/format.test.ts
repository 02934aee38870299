import { expect, test } from "vitest";
import { bytes, clock, percent, perSecond, plain, short, span } from "./format";

test("three digits matter", () => {
  expect([0, 0.1234, 9.996, 12.34, 99.94, 123.4].map(short)).toEqual(["0", "0.12", "10.00", "12.3", "99.9", "123"]);
});

test("bytes have binary units", () => {
  expect(bytes(1023)).toEqual({ text: "1023", unit: "B" });
  expect(bytes(1536)).toEqual({ text: "1.50", unit: "KiB" });
  expect(bytes(2 ** 40)).toEqual({ text: "1.00", unit: "TiB" });
  expect(perSecond(2048).unit).toBe("KiB/s");
});

test("what is not known is a dash, never a zero", () => {
  for (const nothing of [undefined, null, NaN, Infinity]) {
    expect([bytes(nothing).text, percent(nothing).text, plain(nothing).text, perSecond(nothing).unit]).toEqual(["—", "—", "—", ""]);
  }
});

test("times are said in their largest units", () => {
  expect([400, 12_000, 61_000, 3_720_000, 200_000_000].map(span)).toEqual(["0.4 s", "12 s", "1 min", "1 h 02 min", "2 d"]);
  expect(clock(Date.UTC(2026, 0, 1, 7, 5, 9), true)).toBe("07:05:09");
});
