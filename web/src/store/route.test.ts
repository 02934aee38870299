import { expect, test } from "vitest";
import { parse, timed } from "./route";

test("addresses are read and written", () => {
  expect(parse("/", "")).toEqual({ screen: { name: "overview" }, range: 900_000, at: undefined });
  expect(parse("/hosts/web%201", "?range=6h").screen).toEqual({ name: "host", host: "web 1" });
  expect(parse("/hosts/", "?range=nonsense&at=never")).toEqual({ screen: { name: "hosts" }, range: 900_000, at: undefined });
  expect(parse("/elsewhere", "").screen).toEqual({ name: "nowhere" });
  const at = Date.UTC(2026, 0, 2);
  const address = timed("/hosts/a", 21_600_000, at);
  expect(parse("/hosts/a", address.slice(address.indexOf("?")))).toMatchObject({ range: 21_600_000, at });
  expect(timed("/", 900_000, undefined)).toBe("/");
});
