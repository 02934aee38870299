// A person makes, renames and deletes a VM, and takes over and lets go one that was there before. Nothing is made up:
// a control plane, an agent and a libvirt that has a domain "old" stand behind it.
//
//   BASE_URL=http://127.0.0.1:8080 TOKEN=… node journey-vms.mjs
import assert from "node:assert/strict";
import { browser, open, signIn, WITHIN } from "./browser.mjs";

const { BASE_URL, TOKEN } = process.env;
assert(BASE_URL && TOKEN, "BASE_URL and TOKEN say where to go");

/** What is wrong is said of this field, by its label, and the next key goes into it. */
async function wrongAt(page, label, says) {
  const field = page.getByLabel(label, { exact: true });
  await page.locator(".field", { has: field }).getByRole("alert").filter({ hasText: says }).waitFor(WITHIN);
  assert.equal(await field.getAttribute("aria-invalid"), "true", `${label} is not marked`);
  assert(await field.evaluate((one) => one === document.activeElement), `${label} has not the focus`);
  assert.equal(await page.getByRole("alert").count(), 1, "one thing is wrong, and said once");
}

async function type(page, label, text) {
  await page.getByLabel(label, { exact: true }).fill(text);
}

async function make(page) {
  await page.getByRole("button", { name: "New", exact: true }).click();
  await page.getByLabel("Image", { exact: true }).locator("option").first().waitFor({ state: "attached", ...WITHIN });
  await type(page, "Name", "Not A Name");
  await page.getByLabel(/^Memory/).fill("256");
  await page.keyboard.press("Enter");
  await wrongAt(page, "Name", "name");
  await type(page, "Name", "db");
  await type(page, "Network", "../x");
  await page.keyboard.press("Enter");
  await wrongAt(page, "Network", "name");
  await type(page, "Network", "");
  // Behind a fold, which opens by itself.
  await page.getByText("More", { exact: true }).click();
  await type(page, "SSH keys", "no key");
  await page.getByText("More", { exact: true }).click();
  await page.getByRole("button", { name: "Create" }).click();
  await wrongAt(page, "SSH keys", "key");
  await type(page, "SSH keys", "");
  await page.getByRole("button", { name: "Create" }).click();
  await page.waitForURL("**/vms/db", WITHIN);
}

async function rename(page) {
  await page.getByRole("button", { name: "Change" }).click();
  await type(page, "Name", "old shop");
  await page.keyboard.press("Enter");
  await wrongAt(page, "Name", "name");
  await type(page, "Name", "shop");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/vms/shop", WITHIN);
  await page.getByRole("heading", { name: "shop" }).waitFor(WITHIN);
}

/** A name that another has is refused beside the field, too. */
async function taken(page) {
  await page.getByRole("link", { name: "Virtual machines" }).first().click();
  await page.getByRole("button", { name: "New", exact: true }).click();
  await page.getByLabel("Image", { exact: true }).locator("option").first().waitFor({ state: "attached", ...WITHIN });
  await type(page, "Name", "shop");
  await page.keyboard.press("Enter");
  await wrongAt(page, "Name", "taken");
  await page.keyboard.press("Escape");
}

async function adoptAndRelease(page) {
  await page.getByRole("link", { name: "old", exact: true }).click();
  await page.getByRole("button", { name: "Adopt" }).click();
  await page.getByText("adopted", { exact: true }).waitFor(WITHIN);
  assert.equal(await page.getByRole("button", { name: "Delete" }).count(), 0, "what was taken over is not deleted");
  await page.getByRole("button", { name: "Release" }).click();
  await page.waitForURL("**/vms", WITHIN);
  await page.getByRole("row", { name: "old of libvirt" }).waitFor(WITHIN);
}

async function remove(page) {
  await page.getByRole("link", { name: "shop", exact: true }).click();
  await page.locator(".state").getByText("running").waitFor(WITHIN);
  await page.getByRole("button", { name: "Delete" }).click();
  await type(page, "Type shop to go on", "shop");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/vms", WITHIN);
  await page.getByRole("link", { name: "shop", exact: true }).waitFor({ state: "detached", ...WITHIN });
}

const { page, wrong } = await open({ width: 1440, height: 900 });
try {
  await page.goto(`${BASE_URL}/vms`);
  await signIn(page, TOKEN);
  await page.getByRole("link", { name: "old", exact: true }).waitFor(WITHIN);
  await make(page);
  await rename(page);
  await taken(page);
  await adoptAndRelease(page);
  await remove(page);
  // Refusals themselves are in the console, as they should be.
  const others = wrong.filter((text) => !/status of (400|404|409|412|422)/.test(text));
  assert.deepEqual(others, [], "the console tells of errors");
  console.log("the journey went well");
} catch (error) {
  console.error(`at ${page.url()}, alerts: ${await page.getByRole("alert").allTextContents()}`);
  throw error;
} finally {
  await browser.close();
}
