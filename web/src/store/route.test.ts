import { expect, test } from "vitest";
import { chosen, parse, timed } from "./route";

test("addresses are read and written", () => {
  expect(parse("/", "")).toEqual({ screen: { name: "overview" }, range: 900_000, at: undefined, query: "", sort: "", view: "" });
  expect(parse("/hosts/web%201", "?range=6h").screen).toEqual({ name: "host", host: "web 1" });
  expect(parse("/hosts/", "?range=nonsense&at=never")).toMatchObject({ screen: { name: "hosts" }, range: 900_000, at: undefined });
  expect(parse("/vms", "?q=status%3Arunning+-web&sort=-cpu")).toMatchObject({ screen: { name: "vms" }, query: "status:running -web", sort: "-cpu" });
  expect(parse("/vms/db", "").screen).toEqual({ name: "vm", vm: "db" });
  expect(parse("/elsewhere", "").screen).toEqual({ name: "nowhere" });
  const at = Date.UTC(2026, 0, 2);
  const address = timed("/hosts/a", "", 21_600_000, at);
  expect(parse("/hosts/a", address.slice(address.indexOf("?")))).toMatchObject({ range: 21_600_000, at });
  expect(timed("/", "", 900_000, undefined)).toBe("/");
});

test("what was chosen before stays in the address", () => {
  expect(timed("/hosts", "?q=web&at=2026-01-01T00:00:00Z", 3_600_000, undefined)).toBe("/hosts?q=web&range=1h");
  expect(chosen("/hosts", "?q=web&range=1h", { q: "", sort: "-cpu" })).toBe("/hosts?range=1h&sort=-cpu");
});
