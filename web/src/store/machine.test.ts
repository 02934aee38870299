import { expect, test } from "vitest";
import { Api } from "../protocol/api";
import { Machine, type Doing } from "./machine";

interface Call {
  method: string;
  path: string;
  body: string | undefined;
  tag: string | null;
}

/** A control plane whose tasks end after some looks, and which refuses what it is told to. */
function server(ends: string, refuses: Record<string, [number, object]> = {}) {
  const calls: Call[] = [];
  let looks = 0;
  const fetcher = (async (path: string, init: RequestInit) => {
    const call = { method: init.method ?? "GET", path, body: init.body as string | undefined, tag: new Headers(init.headers).get("if-match") };
    calls.push(call);
    const refusal = refuses[`${call.method} ${path}`];
    if (refusal) return new Response(JSON.stringify(refusal[1]), { status: refusal[0] });
    if (path.startsWith("/api/v1/tasks/")) {
      looks += 1;
      const state = looks < 3 ? "running" : ends;
      return Response.json({ id: "t", kind: "vm:stop", state, progress_percent: looks * 30, problem: state === "failed" ? { code: "PRG-3009", detail: "it is locked by a backup" } : undefined });
    }
    if (call.method === "GET") return Response.json({ id: "g", name: "web", status: "running" }, { headers: { etag: '"7"' } });
    return Response.json({ id: "t", kind: "vm:stop", state: "pending" }, { status: 202 });
  }) as typeof fetch;
  return { api: new Api("token", fetcher), calls };
}

function following(api: Api) {
  const machine = new Machine(api, "g", async () => {});
  const told: string[] = [];
  machine.doing.subscribe((doing: Doing | undefined) => told.push(doing ? `${doing.verb} ${doing.task?.state ?? "-"} ${doing.task?.progress_percent ?? ""} ${doing.refusal ?? ""}`.trim() : "nothing"));
  return { machine, told };
}

test("a verb is followed to its end", async () => {
  const { api, calls } = server("succeeded");
  const { machine, told } = following(api);
  expect(await machine.act("stop", { grace_ms: 0 })).toBe(true);
  machine.close();
  expect(told).toEqual(["nothing", "stop -", "stop pending", "stop running 30", "stop running 60", "nothing"]);
  const asked = calls.filter((call) => call.method !== "GET");
  expect(asked).toEqual([{ method: "POST", path: "/api/v1/vms/g/stop", body: '{"grace_ms":0}', tag: null }]);
});

test("what a task fails of, and what is refused at once, stays in its words", async () => {
  const failing = following(server("failed").api);
  expect(await failing.machine.act("stop")).toBe(false);
  failing.machine.close();
  expect(failing.told.at(-1)).toBe("stop failed 90 it is locked by a backup");

  const refusing = following(server("succeeded", { "DELETE /api/v1/vms/g": [409, { code: "PRG-2009", detail: "it has snapshots" }] }).api);
  expect(await refusing.machine.act("delete")).toBe(false);
  refusing.machine.close();
  expect(refusing.told.at(-1)).toBe("delete -  it has snapshots");
});

test("a change goes to the object that was read", async () => {
  const { api, calls } = server("succeeded");
  const { machine } = following(api);
  machine.begin();
  await expect.poll(() => machine.guest.value.value?.name).toBe("web");
  await machine.change({ cpus: 4 }, () => true);
  machine.close();
  expect(calls.filter((call) => call.method === "PATCH")).toEqual([{ method: "PATCH", path: "/api/v1/vms/g", body: '{"cpus":4}', tag: '"7"' }]);
});

test("a change is asked for again where the guest only went on, and not where somebody changed it", async () => {
  let revision = 1;
  const tags: (string | null)[] = [];
  const fetcher = (async (_path: string, init: RequestInit) => {
    if (init.method === "GET") return Response.json({ id: "g", name: "web", cpus: revision < 3 ? 1 : 2 }, { headers: { etag: `"${revision}"` } });
    const tag = new Headers(init.headers).get("if-match");
    tags.push(tag);
    if (tag === `"${revision}"`) return Response.json({ id: "g" });
    return new Response(JSON.stringify({ code: "PRG-1012", detail: "it has changed" }), { status: 412 });
  }) as typeof fetch;
  const machine = new Machine(new Api("token", fetcher), "g", async () => {});
  machine.begin();
  await expect.poll(() => machine.guest.value.value?.name).toBe("web");
  const same = (now: { cpus: number }) => now.cpus === 1;
  revision = 2;
  await machine.change({ name: "shop" }, same);
  expect(tags).toEqual(['"1"', '"2"']);
  revision = 3;
  await expect(machine.change({ name: "shop" }, same)).rejects.toThrow("it has changed");
  machine.close();
  expect(tags).toEqual(['"1"', '"2"', '"2"']);
});
