import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Api } from "../protocol/api";
import { Lately } from "./lately";

beforeEach(() => vi.useFakeTimers({ now: 1_800_000 }));
afterEach(() => vi.useRealTimers());

test("only what is seen is asked for, once the list rests, and again later", async () => {
  const asked: string[] = [];
  const fetcher = (async (path: string) => {
    asked.push(new URL(path, "http://x").searchParams.get("query")!);
    return new Response(JSON.stringify({ data: { result: [{ metric: { guest: "b" }, values: [[900, "0.5"], [1800, "1"]] }] } }));
  }) as typeof fetch;
  const lately = new Lately(new Api("token", fetcher), "perigee_guest_cpu_cores", "guest");
  lately.want(["a", "b"]);
  lately.want(["b", "c"]);
  await vi.advanceTimersByTimeAsync(250);
  expect(asked).toEqual(['perigee_guest_cpu_cores{guest=~"b|c"}']);
  const values = lately.values.value.get("b")!;
  expect([values.length, values[0], values[1], values[60]]).toEqual([61, 0.5, null, 1]);
  await vi.advanceTimersByTimeAsync(15_000);
  expect(asked.length).toBe(2);
  lately.close();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(asked.length).toBe(2);
});
