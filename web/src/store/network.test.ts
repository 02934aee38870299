import { expect, test } from "vitest";
import type { Guest } from "../protocol/types";
import { forwardWords, reach } from "./network";

const guest: Guest = { id: "g", name: "web", kind: "sandbox", owner: "ann", status: "running", image: "base", cpus: 1, memory_bytes: 256 << 20, labels: {}, created_at: "", host: "host-1" };

test("a policy is words", () => {
  expect(reach(undefined)).toBeUndefined();
  expect(reach(["none"])).toBe("nothing");
  expect(reach(["all"])).toBe("the public internet");
  expect(reach(["*.debian.org:tcp/443", "10.1.0.0/16"])).toBe("*.debian.org:tcp/443, 10.1.0.0/16");
});

test("a forward says where it begins and ends, and whether it is there", () => {
  expect(forwardWords(guest)).toEqual([]);
  const forwards = [
    { protocol: "tcp", host_port: 8080, guest_port: 80, up: true },
    { protocol: "udp", host_port: 53, guest_port: 53, up: false },
  ];
  expect(forwardWords({ ...guest, forwards })).toEqual(["host-1:8080 → 80", "host-1:53 udp (not now)"]);
  const { host: _, ...nowhere } = guest;
  expect(forwardWords({ ...nowhere, forwards: forwards.slice(0, 1) })).toEqual(["its host:8080 → 80"]);
});
