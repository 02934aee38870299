// What the whole installation is, read now and then, and pushed in between.

import { Api, ApiError } from "../protocol/api";
import { dialWith, Live, type LiveState } from "../protocol/live";
import type { AuditEvent, ForeignVm, Guest, Host, LiveMessage, Task } from "../protocol/types";
import { Cell } from "./cell";
import { EventLog } from "./events";
import { Streams } from "./streams";

/** Something read from the API. While it is read again the last value stays. */
export interface Loaded<T> {
  value: T | undefined;
  error: ApiError | undefined;
  at: number;
}

const NOTHING = { value: undefined, error: undefined, at: 0 };
const READ_EVERY_MS = 10_000;
/** By then a host has told what became of what was asked of it. */
const TOLD_WITHIN_MS = 2000;
/** Tasks that the time line shows. */
const TASKS = 200;
const DAY_MS = 86_400_000;
/** However many hosts push, who watches all of them looks this often. */
const LOOK_EVERY_MS = 250;
/** A host that nobody watches closely is measured this often. */
export const INTERVAL_MS = 3000;

export class Fleet {
  readonly hosts = new Cell<Loaded<Host[]>>(NOTHING);
  readonly guests = new Cell<Loaded<Guest[]>>(NOTHING);
  readonly foreign = new Cell<Loaded<ForeignVm[]>>(NOTHING);
  readonly tasks = new Cell<Loaded<Task[]>>(NOTHING);
  /** What was done in the last day, oldest first. */
  readonly events = new Cell<Loaded<AuditEvent[]>>(NOTHING);
  readonly live = new Cell<LiveState>("connecting");
  /** Counts looks at what was pushed. */
  readonly pushed = new Cell<number>(0);
  readonly streams = new Streams();
  private readonly connection: Live;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private look: ReturnType<typeof setTimeout> | undefined;
  private ended = false;
  private readonly log: EventLog;

  constructor(
    readonly api: Api,
    private readonly refused: () => void,
  ) {
    this.log = new EventLog(api);
    this.connection = new Live(dialWith(api.token), "/api/v1/live", {
      message: (message) => this.hear(message),
      state: (state) => this.live.set(state),
    });
    void this.read();
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.timer);
    clearTimeout(this.look);
    this.connection.close();
  }

  /** Tries to reach the control plane now. */
  again(): void {
    this.connection.now();
    void this.read();
  }

  /** Something was done: reads everything now, and once more when hosts have told of it. */
  done(): Promise<void> {
    return this.read(TOLD_WITHIN_MS);
  }

  /** Reads everything now. */
  async read(nextMs = READ_EVERY_MS): Promise<void> {
    clearTimeout(this.timer);
    await Promise.all([
      this.load(this.hosts, () => this.api.all<Host>("/api/v1/hosts")),
      this.load(this.guests, () => this.api.all<Guest>("/api/v1/vms")),
      this.load(this.foreign, () => this.api.all<ForeignVm>("/api/v1/foreign-vms")),
      this.load(this.tasks, () => this.api.all<Task>("/api/v1/tasks", TASKS)),
      this.load(this.events, () => this.log.read(Date.now() - DAY_MS)),
    ]);
    if (!this.ended) this.timer = setTimeout(() => void this.read(), nextMs);
  }

  private async load<T>(into: Cell<Loaded<T>>, read: () => Promise<T>): Promise<void> {
    try {
      into.set({ value: await read(), error: undefined, at: Date.now() });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) this.refused();
      into.set({ ...into.value, error });
    }
  }

  private hear(message: LiveMessage): void {
    this.streams.take(message);
    this.look ??= setTimeout(() => {
      this.look = undefined;
      this.pushed.set(this.pushed.value + 1);
    }, LOOK_EVERY_MS);
  }
}

export type State = "ok" | "warning" | "critical" | "unknown" | "off" | "run" | "info" | "maint";

/** What is known of a host at a moment: its link, and how old its last measurement is. */
export function hostState(host: Host, measuredAt: number | undefined, now: number): State {
  if (host.status === "revoked") return "off";
  if (host.status === "disconnected") return "unknown";
  // Another agent reports when it likes: while it does within minutes, all is well.
  if (host.status === "reporting") return "ok";
  // Without guests and watchers a host is measured every 3 s; three missing are no accident.
  if (measuredAt === undefined) return "info";
  return now - measuredAt > 3 * INTERVAL_MS + 2000 ? "unknown" : "ok";
}

/** When a host was measured last: pushed, or as it was read. */
export function measuredAt(fleet: Fleet, host: Host): number | undefined {
  const pushed = fleet.streams.get(host.id, "node")?.at ?? 0;
  const read = host.load ? Date.parse(host.load.measured_at) : 0;
  return Math.max(pushed, read) || undefined;
}
