// A guest's console: a ticket for one use, then a WebSocket that carries the seat's bytes both ways.

import type { Api } from "./api";

export type Seat = "serial" | "vnc";

interface Ticket {
  ticket: string;
  url: string;
}

/** Bytes travel as they are; noVNC knows this name, too. */
export const PROTOCOLS = ["binary"];

/** Where a seat can be taken, once and soon. `path`: of the guest. Refusals are `ApiError`s. */
export async function takeSeat(api: Api, path: string, seat: Seat, page: string = location.href): Promise<string> {
  const told = (await api.send<Ticket>("POST", `${path}/console`, { seat }))!;
  const url = new URL(told.url, page);
  url.protocol = url.protocol.replace("http", "ws");
  if (!url.searchParams.has("ticket")) url.searchParams.set("ticket", told.ticket);
  return url.href;
}

/** The part of a WebSocket that is used here. */
export interface ByteSocket {
  binaryType: string;
  onopen: (() => void) | null;
  onmessage: ((event: { data: ArrayBuffer | string }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  send(bytes: Uint8Array): void;
  close(): void;
}

export interface SerialHandlers {
  opened(): void;
  bytes(bytes: Uint8Array): void;
  /** Why it ended; "" when it ended as it should. */
  ended(why: string): void;
}

/** A serial port: what is typed goes out as UTF-8, what comes in is bytes. */
export class Serial {
  private readonly coder = new TextEncoder();
  private open = false;

  constructor(
    private readonly socket: ByteSocket,
    handlers: SerialHandlers,
  ) {
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.open = true;
      handlers.opened();
    };
    socket.onmessage = ({ data }) => handlers.bytes(typeof data === "string" ? this.coder.encode(data) : new Uint8Array(data));
    socket.onclose = ({ code, reason }) => {
      this.open = false;
      handlers.ended(reason || (code === 1000 || code === 1005 ? "" : "The connection broke."));
    };
  }

  /** What is typed while nobody is there to take it is lost: the page says that it ended. */
  type(text: string): void {
    if (this.open) this.socket.send(this.coder.encode(text));
  }

  close(): void {
    this.socket.onclose = null;
    this.socket.close();
  }
}
