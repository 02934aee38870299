import { expect, test } from "vitest";
import type { Guest } from "../protocol/types";
import { patchOf, settingsOf } from "./settings";

const guest: Guest = { id: "g", name: "web", kind: "vm", owner: "ann", status: "running", image: "debian-12", cpus: 2, memory_bytes: 512 << 20, labels: { role: "web", site: "malmo", "a.b/c": "x=y" }, created_at: "", restart: "on_failure" };

test("only what changed is sent, and what is gone is null", () => {
  const form = settingsOf(guest);
  expect(patchOf(guest, form)).toEqual({});
  expect(patchOf(guest, { ...form, labels: "site = lund\n\nnew=\na.b/c=x=y\n" })).toEqual({ labels: { role: null, site: "lund", new: "" } });
  expect(patchOf(guest, { ...form, memoryMib: "1024", cpus: "4", restart: "never", startOrder: "3", description: "Shop", name: " shop" })).toEqual({ name: "shop", memory_bytes: 1 << 30, cpus: 4, restart: "never", start_order: 3, description: "Shop" });
});
