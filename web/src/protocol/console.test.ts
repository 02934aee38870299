import { expect, test } from "vitest";
import { Api, ApiError } from "./api";
import { Serial, takeSeat, type ByteSocket } from "./console";

function told(status: number, body: object) {
  const asked: unknown[] = [];
  const fetcher = (async (path: string, init: RequestInit) => {
    asked.push([init.method, path, init.body]);
    return new Response(JSON.stringify(body), { status });
  }) as typeof fetch;
  return { api: new Api("token", fetcher), asked };
}

test("a seat is asked for, and its address is on the page's own server", async () => {
  const { api, asked } = told(201, { ticket: "t 1", url: "/api/v1/vms/g/console" });
  expect(await takeSeat(api, "/api/v1/vms/g", "vnc", "https://perigee.lan/vms/web?view=screen")).toBe("wss://perigee.lan/api/v1/vms/g/console?ticket=t+1");
  expect(asked).toEqual([["POST", "/api/v1/vms/g/console", '{"seat":"vnc"}']]);
  const whole = told(201, { ticket: "t", url: "/api/v1/vms/g/console?ticket=t" });
  expect(await takeSeat(whole.api, "/api/v1/vms/g", "serial", "http://127.0.0.1:8080/")).toBe("ws://127.0.0.1:8080/api/v1/vms/g/console?ticket=t");
});

test("a refusal of the seat is told in its words", async () => {
  const { api } = told(409, { code: "PRG-2009", detail: "web does not run" });
  await expect(takeSeat(api, "/api/v1/vms/g", "serial", "http://x/")).rejects.toThrow(new ApiError(409, "PRG-2009", "web does not run", ""));
});

/** A guest's serial port that echoes. */
class Echo implements ByteSocket {
  binaryType = "blob";
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: ArrayBuffer | string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  closed = false;
  send(bytes: Uint8Array): void {
    this.onmessage!({ data: bytes.slice().buffer });
  }
  close(): void {
    this.closed = true;
  }
}

test("bytes go both ways, and the end says why", () => {
  const socket = new Echo();
  const heard: string[] = [];
  const serial = new Serial(socket, {
    opened: () => heard.push("opened"),
    bytes: (bytes) => heard.push([...bytes].map((byte) => byte.toString(16)).join(" ")),
    ended: (why) => heard.push(`ended ${why}`),
  });
  serial.type("lost");
  socket.onopen!();
  serial.type("é\r");
  socket.onmessage!({ data: new Uint8Array([0, 0xff]).buffer });
  socket.onmessage!({ data: "a" });
  socket.onclose!({ code: 1006, reason: "" });
  socket.onclose!({ code: 1011, reason: "the guest stopped" });
  socket.onclose!({ code: 1000, reason: "" });
  expect([socket.binaryType, ...heard]).toEqual(["arraybuffer", "opened", "c3 a9 d", "0 ff", "61", "ended The connection broke.", "ended the guest stopped", "ended "]);
  serial.close();
  expect([socket.closed, socket.onclose]).toEqual([true, null]);
});
