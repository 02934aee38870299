// One guest, followed closely, and what was asked of it last: the task until its end, or the refusal.

import { ApiError, type Api } from "../protocol/api";
import type { Guest, GuestPatch, Task } from "../protocol/types";
import { Cell } from "./cell";
import type { Loaded } from "./fleet";
import type { Verb } from "./verbs";

const READ_EVERY_MS = 2000;
const TASK_EVERY_MS = 500;
/** What was read is not how it is now. */
const OLD_TAG = "PRG-1012";
/** A change is asked for so often. */
const CHANGES_MAX = 5;
const ENDED: Task["state"][] = ["succeeded", "failed", "cancelled", "dead"];

export interface Doing {
  verb: Verb;
  task: Task | undefined;
  /** Why it was not taken, or what it failed of. */
  refusal: string | undefined;
}

/** The task as it is at its end; what is not answered meanwhile is asked again. */
export async function ended(api: Api, task: Task, pause = sleep): Promise<Task> {
  let now = task;
  while (!ENDED.includes(now.state)) {
    await pause(TASK_EVERY_MS);
    now = await asIs(api, now);
  }
  return now;
}

const sleep = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/** The task as it is now; as it was, while nobody answers. */
async function asIs(api: Api, last: Task): Promise<Task> {
  try {
    return await api.get<Task>(`/api/v1/tasks/${last.id}`);
  } catch (error) {
    if (error instanceof ApiError && error.status === 0) return last;
    throw error;
  }
}

export class Machine {
  readonly guest = new Cell<Loaded<Guest>>({ value: undefined, error: undefined, at: 0 });
  readonly doing = new Cell<Doing | undefined>(undefined);
  private tag = "";
  private timer: ReturnType<typeof setTimeout> | undefined;
  private ended = false;

  constructor(
    private readonly api: Api,
    readonly id: string,
    private readonly pause: (ms: number) => Promise<void> = sleep,
  ) {}

  /** Follows it from now on. */
  begin(): void {
    this.ended = false;
    void this.follow();
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.timer);
  }

  get path(): string {
    return `/api/v1/vms/${encodeURIComponent(this.id)}`;
  }

  /** Asks for a verb and follows its task. True: it was done. */
  async act(verb: Verb, body?: unknown): Promise<boolean> {
    const told = (task: Task | undefined, refusal?: string) => this.doing.set({ verb, task, refusal });
    told(undefined);
    try {
      const [method, path] = verb === "delete" ? (["DELETE", this.path] as const) : (["POST", `${this.path}/${verb}`] as const);
      let task = await this.api.send<Task>(method, path, body);
      while (task && !ENDED.includes(task.state)) {
        told(task);
        await this.pause(TASK_EVERY_MS);
        if (this.ended) return false;
        [task] = await Promise.all([asIs(this.api, task), this.read()]);
      }
      if (task && task.state !== "succeeded") {
        told(task, task.problem?.detail ?? task.note ?? `The task is ${task.state}.`);
        return false;
      }
      this.doing.set(undefined);
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      told(undefined, error.message);
      return false;
    } finally {
      await this.read();
    }
  }

  /**
   * Changes what is configured, if nobody changed it meanwhile: `same` tells of what was read since. A guest that only
   * went on, as one that boots does, is asked again.
   */
  async change(patch: GuestPatch, same: (now: Guest) => boolean): Promise<void> {
    for (let left = CHANGES_MAX; ; left -= 1) {
      try {
        await this.api.send<Guest>("PATCH", this.path, patch, this.tag);
        break;
      } catch (error) {
        const moved = error instanceof ApiError && error.code === OLD_TAG && left > 1;
        if (moved) await this.read();
        const { value } = this.guest.value;
        if (!moved || !value || !same(value)) throw error;
      }
    }
    if (patch.name === undefined) await this.read();
  }

  forget(): void {
    this.doing.set(undefined);
  }

  private async follow(): Promise<void> {
    await this.read();
    const gone = this.guest.value.error?.status === 404;
    if (!this.ended && !gone) this.timer = setTimeout(() => void this.follow(), READ_EVERY_MS);
  }

  private async read(): Promise<void> {
    try {
      const { value, tag } = await this.api.read<Guest>(this.path);
      this.tag = tag;
      this.guest.set({ value, error: undefined, at: Date.now() });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.guest.set({ ...this.guest.value, error });
    }
  }
}
