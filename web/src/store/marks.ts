// What was done, where it lies on the time line: deeds nearer than a mark is wide share one.

import type { AuditEvent, Task } from "../protocol/types";
import { clock } from "./format";

export interface Deed {
  at: number;
  text: string;
  failed: boolean;
}

export interface TapeMark {
  x: number;
  deeds: Deed[];
  failed: boolean;
}

/** Pixels from one mark to the next. */
const PITCH = 3;
/** Deeds that a mark tells one by one. */
const TOLD = 5;

const TASKS: Record<string, string> = { "vm:create": "create", "vm:delete": "delete", "vm:execute": "command", "image:build": "build image", "image:import": "import image" };

export function taskWord(kind: string): string {
  return TASKS[kind] ?? kind.replace(/^vm:/, "").replace(":", " ");
}

/**
 * Events as they are; of tasks those that failed: the asking for a task is an event by itself.
 * `names` has what ids are called.
 */
export function deeds(tasks: Task[], events: AuditEvent[], names: Map<string, string>): Deed[] {
  const named = (id: string) => names.get(id) ?? id.slice(-12);
  const actor = (text: string) => (text.startsWith("host:") ? named(text.slice("host:".length)) : text);
  const bad = tasks.filter((task) => task.state === "failed" || task.state === "dead");
  return [
    ...events.map((event) => ({ at: Date.parse(event.at), text: `${event.verb.replace(".", " ")} ${event.detail || named(event.subject_id)}, by ${actor(event.actor)}`, failed: false })),
    ...bad.map((task) => ({ at: Date.parse(task.completed_at ?? task.created_at), text: `${taskWord(task.kind)}${task.sandbox_id ? ` ${named(task.sandbox_id)}` : ""} failed: ${task.problem?.detail ?? task.note ?? task.state}`, failed: true })),
  ].sort((a, b) => a.at - b.at);
}

export function marks(done: Deed[], from: number, to: number, width: number): TapeMark[] {
  const found = new Map<number, TapeMark>();
  for (const deed of done) {
    if (deed.at < from || deed.at > to) continue;
    const x = Math.round((((deed.at - from) / (to - from)) * width) / PITCH) * PITCH;
    const mark = found.get(x) ?? { x, deeds: [], failed: false };
    found.set(x, mark);
    mark.deeds.push(deed);
    mark.failed ||= deed.failed;
  }
  return [...found.values()];
}

/** The mark under the pointer, if one is near. */
export function markAt(all: TapeMark[], x: number): TapeMark | undefined {
  let best: TapeMark | undefined;
  for (const mark of all) if (Math.abs(mark.x - x) <= 2 * PITCH && (!best || Math.abs(mark.x - x) < Math.abs(best.x - x))) best = mark;
  return best;
}

/** A mark in words: its newest deeds, failures first. */
export function said(mark: TapeMark): string[] {
  const order = [...mark.deeds].sort((a, b) => Number(b.failed) - Number(a.failed) || b.at - a.at);
  const lines = order.slice(0, TOLD).map((deed) => `${clock(deed.at, true)} ${deed.text}`);
  return order.length > TOLD ? [...lines, `and ${order.length - TOLD} more`] : lines;
}
