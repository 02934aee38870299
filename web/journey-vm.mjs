// A virtual machine's page in a real browser. The machine is made up here, so that the journey needs no hypervisor:
// the page, its policy and the rest of the API are the control plane's own.
import assert from "node:assert/strict";

const ID = "01900000-0000-7000-8000-000000000001";
const WIDTH = 64;
const HEIGHT = 48;

/** Answers for one VM and its tasks; keeps what was asked of it. Gives what makes it run again. */
async function stand(page, asked) {
  const vm = { id: ID, name: "web-1", kind: "vm", tenant: "default", owner: "ann", status: "running", image: "debian-12", image_id: ID, cpus: 2, memory_bytes: 1 << 30, backups: { every_ms: 86_400_000, offset_ms: 0, keep: 7, encrypted: true, next_at: "2026-11-23T03:00:00Z" }, labels: { role: "web" }, created_at: new Date().toISOString(), generation: 1 };
  const task = { id: ID, kind: "vm:stop", state: "running", owner: "ann", sandbox_id: ID, created_at: vm.created_at, progress_percent: 40, note: "asks the guest to turn itself off" };
  let looks = 0;
  await page.route("**/api/v1/vms?**", (route) => route.fulfill({ json: { items: [vm] } }));
  await page.route("**/api/v1/vms/web-1", (route) => route.fulfill({ json: vm, headers: { etag: '"1"' } }));
  await page.route("**/api/v1/vms/web-1/*", async (route) => {
    const verb = new URL(route.request().url()).pathname.split("/").pop();
    asked.push(`${verb} ${route.request().postData()}`);
    if (verb === "console") return route.fulfill({ status: 201, json: { ticket: "t", url: `/api/v1/vms/web-1/console?ticket=t&seat=${route.request().postDataJSON().seat}` } });
    vm.status = "stopping";
    return route.fulfill({ status: 202, json: task });
  });
  await page.route(`**/api/v1/tasks/${ID}`, (route) => {
    looks += 1;
    if (looks > 2) Object.assign(task, { state: "failed", problem: { code: "PRG-3009", detail: "its disk is locked by a backup" } });
    return route.fulfill({ json: task });
  });
  await page.routeWebSocket(/\/console\?ticket=/, (socket) => (socket.url().includes("seat=vnc") ? screen(socket, asked) : serial(socket)));
  return () => (vm.status = "running");
}

/** A port that says hello in a colour of its own, and echoes. */
function serial(socket) {
  socket.send(Buffer.from("\x1b[38;2;255;100;0morange\x1b[0m login: "));
  socket.onMessage((bytes) => socket.send(Buffer.from(bytes)));
}

/** RFB 3.8 (RFC 6143) without a password: one picture of one colour, and a pointer of its own. */
function screen(socket, asked) {
  let held = Buffer.alloc(0);
  let step = 0;
  const say = (...bytes) => socket.send(Buffer.concat(bytes.map((part) => (typeof part === "number" ? Buffer.from([part]) : Buffer.from(part)))));
  const length = () => ({ 0: 20, 2: held.length < 4 ? Infinity : 4 + 4 * held.readUInt16BE(2), 3: 10, 4: 8, 5: 6 })[held[0]] ?? Infinity;
  const greetings = [
    [12, () => say([1, 1])],
    [1, () => say([0, 0, 0, 0])],
    [1, () => say([0, WIDTH, 0, HEIGHT], [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0], [0, 0, 0, 5], "web-1")],
  ];
  socket.onMessage((bytes) => {
    held = Buffer.concat([held, Buffer.from(bytes)]);
    for (;;) {
      const [need, answer] = greetings[step] ?? [length(), undefined];
      if (held.length < need) return;
      const message = held.subarray(0, need);
      held = held.subarray(need);
      step += 1;
      if (answer) answer();
      else if (message[0] === 4) asked.push(`key ${message[1]} ${message.readUInt32BE(4).toString(16)}`);
      else if (message[0] === 3 && message[1] === 0) {
        const picture = Buffer.alloc(WIDTH * HEIGHT * 4, Buffer.from([255, 0, 0, 0]));
        const pointer = [Buffer.from([0, 0, 0, 0, 0, 8, 0, 8, 255, 255, 255, 17]), Buffer.alloc(8 * 8 * 4, 200), Buffer.alloc(8, 255)];
        say([0, 0, 0, 2], [0, 0, 0, 0, 0, WIDTH, 0, HEIGHT, 0, 0, 0, 0], picture, ...pointer);
      }
    }
  });
  say("RFB 003.008\n");
}

export async function machine(page, base, within) {
  const asked = [];
  const runsAgain = await stand(page, asked);
  await page.goto(`${base}/vms`);
  await page.getByRole("link", { name: "web-1" }).click();
  await page.getByText("every 24 h, 7 kept, encrypted, next 2026-11-23 03:00:00 UTC").waitFor(within);
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await page.getByLabel("By force").check();
  await page.getByRole("button", { name: "Force stop" }).click();
  await page.getByText("Stopping, 40 %").waitFor(within);
  await page.getByRole("alert").filter({ hasText: "its disk is locked by a backup" }).waitFor(within);
  assert(await page.getByRole("button", { name: "Pause" }).isDisabled(), "what stops cannot be paused");
  await page.getByText("start, resume, pause, restart: not while it is stopping").waitFor(within);
  await page.getByRole("button", { name: "Delete" }).click();
  const sure = page.getByRole("button", { name: "Delete web-1" });
  await page.getByLabel("Type web-1 to go on").fill("web");
  assert(await sure.isDisabled(), "a name half typed deletes nothing");
  await page.keyboard.press("Escape");
  assert.deepEqual(asked, ['stop {"grace_ms":0}']);

  runsAgain();
  await page.getByRole("link", { name: "Serial console" }).click();
  const rows = page.locator(".xterm-rows");
  await rows.getByText("login:").waitFor(within);
  assert.equal(await rows.getByText("orange").evaluate((text) => getComputedStyle(text).color), "rgb(255, 100, 0)");
  await page.keyboard.type("root");
  await rows.getByText("root").waitFor(within);
  await page.keyboard.press("Control+]");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Full screen", "the keyboard can be left");

  // noVNC looks for a socket's methods on its own class; Playwright's stand-in inherits them.
  await page.evaluate(() => {
    const own = WebSocket.prototype;
    const above = Object.getPrototypeOf(own);
    for (const name of Object.getOwnPropertyNames(above)) if (!Object.hasOwn(own, name)) Object.defineProperty(own, name, Object.getOwnPropertyDescriptor(above, name));
  });
  await page.getByRole("link", { name: "Screen" }).click();
  await page.getByText("attached").waitFor(within);
  const painted = () => {
    const canvas = document.querySelector(".console .place canvas");
    return canvas?.width > 0 && canvas.getContext("2d").getImageData(1, 1, 1, 1).data.slice(0, 3).join() === "255,0,0";
  };
  await page.waitForFunction(painted, undefined, within);
  await page.getByLabel("Text to type in the guest").fill("é");
  await page.getByRole("button", { name: "Type it" }).click();
  await page.getByRole("button", { name: "Ctrl-Alt-Del" }).click();
  const keys = () => asked.filter((one) => one.startsWith("key ")).map((one) => one.slice(4));
  const deadline = Date.now() + within.timeout;
  while (keys().length < 8 && Date.now() < deadline) await page.evaluate(() => new Promise(requestAnimationFrame));
  assert.deepEqual(keys(), ["1 e9", "0 e9", "1 ffe3", "1 ffe9", "1 ffff", "0 ffff", "0 ffe9", "0 ffe3"]);
  assert.deepEqual(asked.filter((one) => one.startsWith("console")), ['console {"seat":"serial"}', 'console {"seat":"vnc"}']);
  // Nobody asks for the made-up machine when it is gone.
  await page.goto(base);
  await page.unrouteAll({ behavior: "wait" });
}
