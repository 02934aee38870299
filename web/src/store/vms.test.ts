import { expect, test } from "vitest";
import type { ForeignVm, Guest } from "../protocol/types";
import { vmRows } from "./vms";

test("a machine that both lists have for a while is one row", () => {
  const ours = { id: "a", name: "taken", kind: "vm", status: "running", labels: {} } as Guest;
  const foreign = ["a", "b"].map((id) => ({ id, name: `old-${id}`, status: "running", driver: "libvirt" }) as ForeignVm);
  expect(vmRows([ours], foreign, new Map()).map((row) => `${row.key} ${row.name}`)).toEqual(["a taken", "b old-b"]);
});

test("one that runs with a problem is not marked as well", () => {
  const guest = (status: string, problem?: Guest["problem"]) => ({ id: "a", name: "db", kind: "vm", status, problem, labels: {} }) as Guest;
  const full = { code: "PRG-5003", detail: "its host's disk is full" };
  const [row] = vmRows([guest("running", full)], [], new Map());
  expect([row?.state, row?.note]).toEqual(["warning", full.detail]);
  expect(["running", "failed"].map((status) => vmRows([guest(status)], [], new Map())[0]?.state)).toEqual(["ok", "critical"]);
});
