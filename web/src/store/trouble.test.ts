import { expect, test } from "vitest";
import type { Guest, Host } from "../protocol/types";
import { hostState } from "./fleet";
import { troubles } from "./trouble";

const host = (name: string, more: Partial<Host> = {}): Host => ({ id: name, name, status: "connected", labels: {}, guests: 0, memory_taken_bytes: 0, created_at: "", ...more });

const guest = (name: string, status: string, problem?: Guest["problem"]) => ({ id: name, name, kind: "vm", status, problem, labels: {} }) as Guest;

test("what failed comes first, then silent hosts, then what was lost and what fails", () => {
  const now = Date.UTC(2026, 0, 1, 12);
  const load = { measured_at: new Date(now).toISOString(), frames_lost: 3 };
  const all = [host("good"), host("lossy", { load }), host("gone", { status: "disconnected", status_since: new Date(now - 120_000).toISOString() }), host("mute")];
  const at = (name: string) => (name === "mute" ? now - 60_000 : now);
  const seen = all.map((host) => ({ host, state: hostState(host, at(host.name), now), at: at(host.name) }));
  const failing = [{ metric: { host: "good", collector: "smart" }, value: [0, "0"] as [number, string] }];
  const problem = { code: "PRG-5003", detail: "its host's disk is full" };
  const guests = [guest("fine", "running"), guest("full", "running", problem), guest("broken", "failed", problem), guest("odd", "stopped", problem)];
  expect(troubles(seen, guests, failing, now).map((t) => `${t.name}: ${t.what}`)).toEqual([
    "broken: Failed",
    "gone: Not connected for 2 min",
    "mute: No measurement for 1 min",
    "full: Runs with a problem",
    "good: Not measured: smart",
    "lossy: 3 frames of measurements were lost",
  ]);
});
