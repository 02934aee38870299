import { expect, test } from "vitest";
import { findEntries, guestEntries, marked, type Entry, type Kind } from "./palette";

const entry = (kind: Kind, title: string, detail = ""): Entry => ({ key: `${kind}/${title}`, kind, title, detail, run: "/" });
const entries = [
  entry("Screens", "Overview"),
  entry("Screens", "Hosts"),
  entry("Actions", "Light theme"),
  ...["hv-1", "hv-10", "hv-2", "web-host"].map((name) => entry("Hosts", name, "ok")),
  entry("Virtual machines", "web-1", "running on hv-1"),
  entry("Sandboxes", "sb-web", "stopped on hv-2"),
];
const found = (query: string, recent: string[] = []) => findEntries(entries, query, recent).map(({ title }) => title).join(" ");

test("the best of each kind comes first, and every word must fit", () => {
  expect(found("hv-1")).toBe("hv-1 hv-10 web-1");
  expect(found("web")).toBe("web-host web-1 sb-web");
  expect(found("web hv-2")).toBe("sb-web");
  expect(found("host")).toBe("Hosts web-host hv-1 hv-2 hv-10");
  expect(found("nothing such")).toBe("");
});

test("a sigil keeps to its kinds, and nothing typed shows what was opened lately", () => {
  expect(found("@web")).toBe("web-host");
  expect(found("#")).toBe("web-1 sb-web");
  expect(found("> light")).toBe("Light theme");
  expect(found("", ["Hosts/hv-2", "gone"])).toBe("hv-2 Overview Hosts Light theme");
});

test("guests of every kind lead to their pages", () => {
  const guest = { id: "g", name: "sb 1", kind: "sandbox", owner: "ann", status: "running", image: "base", cpus: 1, memory_bytes: 1, labels: {}, created_at: "", host: "hv-1" };
  const vm = { id: "f", name: "old", status: "stopped", busy: false, host: "hv-2", host_id: "h", driver: "libvirt", measured_at: "" };
  expect(guestEntries([guest], [vm]).map(({ kind, detail, run }) => [kind, detail, run])).toEqual([
    ["Sandboxes", "running on hv-1", "/vms/sb%201"],
    ["Virtual machines", "stopped on hv-2, of libvirt", "/vms/f"],
  ]);
});

test("what was looked for stands out", () => {
  expect(marked("web-host", "@HO w")).toEqual(["", "w", "eb-", "ho", "st"]);
  expect([marked("a.b", "."), marked("a", "")]).toEqual([["a", ".", "b"], ["a"]]);
});
