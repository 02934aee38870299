// What changes, as it comes: a snapshot, then frames, numbered without gaps. A gap asks for another
// snapshot; a broken connection is dialled again after a random wait that grows (full jitter).

import type { LiveMessage } from "./types";

export type LiveState = "connecting" | "open" | "away";

export interface LiveHandlers {
  message(message: LiveMessage): void;
  state(state: LiveState): void;
}

/** The part of a WebSocket that is used here. */
export interface Socket {
  onopen: (() => void) | null;
  onmessage: ((event: { data: string }) => void) | null;
  onclose: (() => void) | null;
  send(text: string): void;
  close(): void;
}

export type Dial = (path: string) => Socket;

const WAIT_FIRST_MS = 500;
const WAIT_MAX_MS = 15_000;
const RESYNC = JSON.stringify({ type: "resync" });

/** The token travels as a subprotocol: a browser can send it in no other way. */
export function dialWith(token: string): Dial {
  return (path) => {
    const url = new URL(path, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return new WebSocket(url, ["perigee.live.v1", `perigee.token.${token}`]) as unknown as Socket;
  };
}

export class Live {
  private socket: Socket | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private failures = 0;
  private expected = 0;
  private ended = false;

  constructor(
    private readonly dial: Dial,
    private readonly path: string,
    private readonly handlers: LiveHandlers,
    private readonly chance: () => number = Math.random,
  ) {
    this.connect();
  }

  close(): void {
    this.ended = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  /** Does not wait any longer for the next try. */
  now(): void {
    if (this.timer === undefined) return;
    clearTimeout(this.timer);
    this.connect();
  }

  private connect(): void {
    this.timer = undefined;
    this.handlers.state(this.failures === 0 ? "connecting" : "away");
    const socket = this.dial(this.path);
    this.socket = socket;
    this.expected = 0;
    socket.onopen = () => this.handlers.state("open");
    socket.onmessage = (event) => this.hear(JSON.parse(event.data) as LiveMessage);
    socket.onclose = () => this.again();
  }

  private hear(message: LiveMessage): void {
    this.failures = 0;
    const inOrder = message.type === "snapshot" || (this.expected > 0 && message.sequence === this.expected);
    if (!inOrder) {
      // Until the snapshot comes nothing that follows can be read.
      if (this.expected > 0) this.socket?.send(RESYNC);
      this.expected = 0;
      return;
    }
    this.expected = message.sequence + 1;
    this.handlers.message(message);
  }

  private again(): void {
    if (this.ended) return;
    this.failures += 1;
    this.handlers.state("away");
    const most = Math.min(WAIT_MAX_MS, WAIT_FIRST_MS * 2 ** Math.min(this.failures - 1, 10));
    this.timer = setTimeout(() => this.connect(), this.chance() * most);
  }
}
