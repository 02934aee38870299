import { expect, test } from "vitest";
import { Api } from "../protocol/api";
import type { AuditEvent } from "../protocol/types";
import { dayBegins, EventLog } from "./events";

/** Events 1 to `count`, one each second of 1970; some numbers belong to others. */
function told(count: number, hidden: (seq: number) => boolean = () => false): AuditEvent[] {
  return Array.from({ length: count }, (_, place) => place + 1)
    .filter((seq) => !hidden(seq))
    .map((seq) => ({ seq, id: String(seq), at: new Date(seq * 1000).toISOString(), actor: "ann", verb: "guest.create", noun: "guest", subject_id: "g", detail: "" }));
}

function server(events: () => AuditEvent[]) {
  const asked: number[] = [];
  const fetcher = (async (path: string) => {
    const query = new URL(path, "http://x").searchParams;
    asked.push(Number(query.get("limit")));
    const items = events().filter((event) => event.seq > Number(query.get("after"))).slice(0, Number(query.get("limit")));
    return new Response(JSON.stringify({ items }));
  }) as typeof fetch;
  return { api: new Api("token", fetcher), asked };
}

test("the day's first event is found among many, whoever owns the numbers between", async () => {
  for (const [count, since] of [[0, 5], [10, 5], [499, 499], [100_000, 93_210], [100_000, 100_001], [100_000, 1]] as const) {
    const events = told(count, (seq) => seq % 7 === 0);
    let asked = 0;
    const low = await dayBegins(async (after) => (asked++, events.find((event) => event.seq > after)), since * 1000);
    const skipped = events.filter((event) => event.seq <= low);
    expect(skipped.every((event) => event.seq < since), `${count} ${since}`).toBe(true);
    const older = events.filter((event) => event.seq > low && event.seq < since);
    expect(older.length, `${count} ${since}`).toBeLessThanOrEqual(500);
    expect(asked).toBeLessThan(25);
  }
});

test("what is new is added, what is too old is let go, nothing is read twice", async () => {
  let events = told(1200);
  const { api, asked } = server(() => events);
  const log = new EventLog(api);
  expect((await log.read(100_000)).map((event) => event.seq)).toEqual(events.slice(99).map((event) => event.seq));
  events = told(1203);
  asked.length = 0;
  const [later, same] = await Promise.all([log.read(1_201_000), log.read(1_201_000)]);
  expect(same).toBe(later);
  expect([later.map((event) => event.seq), asked]).toEqual([[1201, 1202, 1203], [500]]);
});
