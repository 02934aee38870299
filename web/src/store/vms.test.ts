import { expect, test } from "vitest";
import type { ForeignVm, Guest } from "../protocol/types";
import { vmRows } from "./vms";

test("a machine that both lists have for a while is one row", () => {
  const ours = { id: "a", name: "taken", kind: "vm", status: "running", labels: {} } as Guest;
  const foreign = ["a", "b"].map((id) => ({ id, name: `old-${id}`, status: "running", driver: "libvirt" }) as ForeignVm);
  expect(vmRows([ours], foreign, new Map()).map((row) => `${row.key} ${row.name}`)).toEqual(["a taken", "b old-b"]);
});
