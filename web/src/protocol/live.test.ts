import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Live, type Socket } from "./live";
import type { LiveMessage } from "./types";

class Fake implements Socket {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  sent: string[] = [];
  closed = false;
  send(text: string): void {
    this.sent.push(text);
  }
  close(): void {
    this.closed = true;
  }
  say(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
}

const snapshot = (sequence: number) => ({ type: "snapshot", sequence, streams: [] });
const frame = (sequence: number) => ({ type: "frame", sequence, host: "h", stream: "node", at: 1, reset: false, added: [], columns: [], values: [] });

function begin() {
  const sockets: Fake[] = [];
  const heard: LiveMessage[] = [];
  const states: string[] = [];
  const dial = () => {
    sockets.push(new Fake());
    return sockets[sockets.length - 1]!;
  };
  const live = new Live(dial, "/x", { message: (m) => heard.push(m), state: (s) => states.push(s) }, () => 0.5);
  return { sockets, heard, states, live };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test("frames follow a snapshot in order", () => {
  const { sockets, heard } = begin();
  for (const message of [snapshot(1), frame(2), frame(3)]) sockets[0]!.say(message);
  expect(heard.map((m) => m.sequence)).toEqual([1, 2, 3]);
});

test("a gap is not read over: it asks for a snapshot, once", () => {
  const { sockets, heard } = begin();
  for (const message of [snapshot(1), frame(3), frame(4), snapshot(5), frame(6)]) sockets[0]!.say(message);
  expect(heard.map((m) => m.sequence)).toEqual([1, 5, 6]);
  expect(sockets[0]!.sent).toEqual([JSON.stringify({ type: "resync" })]);
});

test("a broken connection is dialled again, later each time, until it is closed", () => {
  const { sockets, states, live } = begin();
  sockets[0]!.onclose?.();
  vi.advanceTimersByTime(249);
  expect(sockets.length).toBe(1);
  vi.advanceTimersByTime(1);
  expect(sockets.length).toBe(2);
  sockets[1]!.onclose?.();
  vi.advanceTimersByTime(499);
  expect(sockets.length).toBe(2);
  vi.advanceTimersByTime(1);
  sockets[2]!.onopen?.();
  expect(states).toEqual(["connecting", "away", "away", "away", "away", "open"]);
  live.close();
  sockets[2]!.onclose?.();
  vi.advanceTimersByTime(60_000);
  expect(sockets.length).toBe(3);
});
