import { expect, test } from "vitest";
import type { Host } from "../protocol/types";
import { hostState } from "./fleet";
import { troubles } from "./trouble";

const host = (name: string, more: Partial<Host> = {}): Host => ({ id: name, name, status: "connected", labels: {}, guests: 0, memory_taken_bytes: 0, created_at: "", ...more });

test("silent hosts come first, then what was lost and what fails", () => {
  const now = Date.UTC(2026, 0, 1, 12);
  const load = { measured_at: new Date(now).toISOString(), frames_lost: 3 };
  const all = [host("good"), host("lossy", { load }), host("gone", { status: "disconnected", status_since: new Date(now - 120_000).toISOString() }), host("mute")];
  const at = (name: string) => (name === "mute" ? now - 60_000 : now);
  const seen = all.map((host) => ({ host, state: hostState(host, at(host.name), now), at: at(host.name) }));
  const failing = [{ metric: { host: "good", collector: "smart" }, value: [0, "0"] as [number, string] }];
  expect(troubles(seen, failing, now).map((t) => `${t.host}: ${t.what}`)).toEqual([
    "gone: Not connected for 2 min",
    "mute: No measurement for 1 min",
    "good: Not measured: smart",
    "lossy: 3 frames of measurements were lost",
  ]);
});
