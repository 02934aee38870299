// A person's way through the dashboard, in a real browser.
//
//   BASE_URL=http://127.0.0.1:8080 TOKEN=… node journey.mjs
//
// SHOTS=folder   leaves pictures of the screens, in both themes and two sizes
// OUTAGES=1      asks on its output for the agent and the control plane to be ended and started, a line for
//                each, and goes on when a line comes in
// SAMPLES=n      measures the way from n samples to the screen
// CHROMIUM=path  of the browser [/usr/bin/chromium]
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { browser, open, signIn, WITHIN } from "./browser.mjs";
import { machine } from "./journey-vm.mjs";

const { BASE_URL, TOKEN, SHOTS, OUTAGES, SAMPLES = "0" } = process.env;
assert(BASE_URL && TOKEN, "BASE_URL and TOKEN say where to go");

/** Every control can be reached and seen with the keyboard alone. */
async function walk(page) {
  const reached = new Set();
  for (let step = 0; step < 40; step += 1) {
    await page.keyboard.press("Tab");
    const here = await page.evaluate(() => {
      const one = document.activeElement;
      if (!one || one === document.body) return null;
      const shown = getComputedStyle(one).outlineStyle !== "none" || one.classList.contains("sr");
      return { name: one.getAttribute("aria-label") ?? one.textContent?.trim() ?? "", shown };
    });
    if (!here) break;
    assert(here.shown, `the focus on "${here.name}" cannot be seen`);
    reached.add(here.name);
  }
  for (const name of ["Hosts", "Overview"]) assert([...reached].some((one) => one.startsWith(name)), `${name} cannot be reached by keyboard: ${[...reached]}`);
}

/** A wrong token is refused, and that is all that is told. */
async function refused() {
  const { page, wrong } = await open({ width: 1440, height: 900 });
  await page.goto(BASE_URL);
  await signIn(page, "wrong");
  await page.getByRole("alert").waitFor(WITHIN);
  // The refusals themselves are in the console, as they should be.
  const others = wrong.filter((text) => !/401|WebSocket/.test(text));
  assert.deepEqual(others, [], "the console tells of errors while signing in");
  await page.context().close();
}

async function main() {
  await refused();
  const { page, wrong } = await open({ width: 1440, height: 900 });
  await page.goto(BASE_URL);
  await signIn(page, TOKEN);
  await page.getByRole("heading", { name: "Overview" }).waitFor(WITHIN);
  const row = page.locator("section.fleet a.fr").first();
  await row.waitFor(WITHIN);
  await row.locator("svg[aria-label=ok]").waitFor(WITHIN);
  await page.getByText(/^live /).waitFor(WITHIN);
  await walk(page);

  const host = (await row.locator(".nm").textContent()).trim();
  await row.click();
  await page.waitForURL(`**/hosts/${encodeURIComponent(host)}`, WITHIN);
  for (const strip of ["CPU", "Memory", "Disk", "Network"]) await page.locator(".rec .k b", { hasText: strip }).first().waitFor(WITHIN);
  const cpu = page.locator(".rec .ln", { hasText: "User" }).locator("em").first();
  const before = await cpu.textContent();
  await page.waitForFunction((old) => document.querySelector(".rec .ln em").textContent !== old, before, WITHIN);
  assert((await page.locator("section[aria-label=Processes] tbody tr").count()) > 0, "no process is shown");
  assert((await page.locator("section[aria-label=Disks] tbody tr").count()) > 0, "no file system is shown");
  const inked = await page.locator(".plot canvas").first().evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at] > 0) count += 1;
    return count;
  });
  assert(inked > 100, "the CPU's strip is empty");

  // All that is chosen is in the address, and the browser's own buttons work.
  await page.getByLabel("Length of the charts").selectOption("3600000");
  await page.waitForURL("**range=1h", WITHIN);
  await page.reload();
  await page.getByText("Last 1 h").waitFor({ state: "attached", ...WITHIN });
  await page.goBack();
  await page.goBack();
  await page.getByRole("heading", { name: "Overview" }).waitFor(WITHIN);

  await byName(page, host);
  await listed(page, host);
  await machine(page, BASE_URL, WITHIN);

  if (Number(SAMPLES) > 0) await lag(page, host);
  assert.deepEqual(wrong, [], "the console tells of errors");
  if (OUTAGES) await outages(page, host);
  if (SHOTS) await shots(host);
}

/** The time line tells what was done, and the palette finds a host by keyboard alone. */
async function byName(page, host) {
  const tape = page.getByRole("img", { name: /^24 hours: .*, [1-9][0-9]* changes/ });
  await tape.waitFor(WITHIN);
  await page.keyboard.press("Control+k");
  await page.keyboard.type(`@${host}`);
  await page.getByRole("option", { name: host, selected: true }).waitFor(WITHIN);
  await page.keyboard.press("Enter");
  await page.waitForURL(`**/hosts/${encodeURIComponent(host)}`, WITHIN);
}

/** A list is filtered, ordered and walked by keyboard, and all of it is in the address. */
async function listed(page, host) {
  await page.goto(`${BASE_URL}/hosts`);
  const grid = page.getByRole("grid");
  await grid.waitFor(WITHIN);
  await page.keyboard.press("/");
  await page.keyboard.type(`${host} no-such-host`);
  await page.getByRole("button", { name: "Drop no-such-host" }).click();
  await page.waitForURL(`**?q=${encodeURIComponent(host)}`, WITHIN);
  await page.getByRole("button", { name: /^CPU/ }).click();
  await page.waitForURL("**sort=-cpu", WITHIN);
  assert.equal(await grid.locator("th[aria-sort=descending]").count(), 1, "one column orders the list");
  await page.keyboard.press("j");
  await grid.locator("tr.cur").waitFor(WITHIN);
  const chosen = await grid.locator("tr.cur a").textContent();
  await page.keyboard.press("Enter");
  await page.waitForURL(`**/hosts/${encodeURIComponent(chosen)}`, WITHIN);
}

/** What a person sees while a part is away, and that all comes back by itself. */
async function outages(page, host) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const please = async (what) => {
    console.log(`please: ${what}`);
    assert(!(await lines.next()).done, `nobody did: ${what}`);
  };
  const picture = (name) => SHOTS && page.screenshot({ path: `${SHOTS}/${name}.png` });
  if (SHOTS) mkdirSync(SHOTS, { recursive: true });
  await page.goto(`${BASE_URL}/hosts/${encodeURIComponent(host)}`);
  const value = page.locator(".rec .ln em").first();
  const isLive = page.getByText(/^live /);
  const away = page.getByRole("alert").filter({ hasText: "does not answer" });
  await isLive.waitFor(WITHIN);

  await please("kill agent");
  await page.getByText(/^stale /).waitFor(WITHIN);
  await page.locator("header .badge", { hasText: "disconnected" }).waitFor(WITHIN);
  assert.notEqual(await value.textContent(), "", "the last values stay");
  await picture("host-stale");
  await please("start");
  await isLive.waitFor(WITHIN);
  await page.locator("header .badge").waitFor({ state: "detached", ...WITHIN });

  await please("kill perigeed");
  await away.waitFor(WITHIN);
  assert.notEqual(await value.textContent(), "", "the last values stay");
  await picture("host-away");
  // Other screens show what is known, and a page that has to ask says that it got no answer.
  await page.getByRole("link", { name: "Hosts", exact: true }).first().click();
  await page.getByRole("grid").getByRole("link", { name: host, exact: true }).first().waitFor(WITHIN);
  await away.waitFor(WITHIN);
  await picture("hosts-away");
  await please("start");
  await away.getByRole("button", { name: "Try now" }).click().catch(() => {}); // It may be back by itself already.
  await away.waitFor({ state: "detached", ...WITHIN });
  await isLive.waitFor(WITHIN);
  await page.getByRole("grid").getByRole("link", { name: host, exact: true }).first().click();
  const old = await value.textContent();
  await page.waitForFunction((old) => document.querySelector(".rec .ln em").textContent !== old, old, WITHIN);
  const errors = await page.locator("main [role=alert]").count();
  assert.equal(errors, 0, "an error is still shown");
}

/** From the moment of a measurement to the screen; both clocks are this machine's. */
async function lag(page, host) {
  await page.goto(`${BASE_URL}/hosts/${encodeURIComponent(host)}`);
  const marks = () => performance.getEntriesByName("perigee-frame").map((mark) => mark.detail);
  await page.waitForFunction((count) => performance.getEntriesByName("perigee-frame").length >= count + 3, Number(SAMPLES), { timeout: 30_000 + 1500 * Number(SAMPLES) });
  // The first frames are of the time before somebody watched.
  const ms = (await page.evaluate(marks)).slice(3).sort((a, b) => a - b);
  const at = (share) => ms[Math.min(ms.length - 1, Math.floor(ms.length * share))];
  console.log(JSON.stringify({ samples: ms.length, p50_ms: at(0.5), p99_ms: at(0.99), max_ms: ms[ms.length - 1] }));
}

async function shots(host) {
  mkdirSync(SHOTS, { recursive: true });
  for (const [size, viewport] of [["desk", { width: 1440, height: 900 }], ["phone", { width: 390, height: 844 }]]) {
    for (const theme of ["dark", "light"]) {
      const { page, wrong } = await open(viewport, theme);
      for (const [name, path] of [["overview", "/"], ["host", `/hosts/${encodeURIComponent(host)}`], ["hosts", "/hosts"], ["vms", "/vms"]]) {
        await page.goto(`${BASE_URL}${path}#token=${TOKEN}`);
        await page.getByText(/^live /).waitFor({ state: "attached", ...WITHIN });
        assert(!page.url().includes("token"), "the token stays in the address");
        if (name === "host") await page.locator(".plot canvas").first().waitFor(WITHIN);
        await page.waitForTimeout(3000); // Some more samples, for the picture only.
        const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
        assert(!wide, `${name} is wider than a ${size}`);
        await page.screenshot({ path: `${SHOTS}/${name}-${theme}-${size}.png` });
      }
      assert.deepEqual(wrong, [], `${size}, ${theme}`);
      await page.context().close();
    }
  }
}

try {
  await main();
  console.log("the journey went well");
} finally {
  await browser.close();
  process.stdin.destroy();
}
