// Chromium, and pages that notice what must not happen.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

/** Milliseconds after which what a test waits for has failed. */
export const PATIENCE = 30000;

/** What a page asks for when its key is missing or wrong: Chromium puts each such answer on the console. */
const REFUSED = /^Failed to load resource: the server responded with a status of 4(0[134]|29) /;

/** Starts Chromium. Programs of the root user need --no-sandbox; all pages here are our own. */
export async function openBrowser({ chromium: program, npm }) {
  const require = createRequire(join(npm, "package.json"));
  const { chromium } = require("playwright-core");
  const executablePath = program.includes("/") ? program : findProgram(program);
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  browser.axe = require.resolve("axe-core/axe.min.js");
  return browser;
}

function findProgram(name) {
  const { existsSync } = createRequire(import.meta.url)("node:fs");
  const found = (process.env.PATH ?? "").split(":").map((folder) => join(folder, name)).find((path) => existsSync(path));
  assert.ok(found, `${name} is not installed`);
  return found;
}

/** Opens the status page at `url`; `allowed` refusals, and lines that match `expected`, may appear on the console. */
export async function openPage(browser, url, { later, allowed = 0, expected, ...settings }) {
  const context = await browser.newContext({ locale: "en-GB", timezoneId: "UTC", viewport: { width: 1440, height: 900 }, ...settings });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage(), troubles = [], asked = [];
  let refused = 0;
  page.on("console", (message) => {
    if (REFUSED.test(message.text()) && ++refused <= allowed) return;
    if (expected?.test(message.text())) return;
    if (["error", "warning"].includes(message.type())) troubles.push(`${message.type()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => troubles.push(error.stack));
  page.on("dialog", (dialog) => { troubles.push("dialog: " + dialog.message()); dialog.dismiss(); });
  page.on("request", (request) => {
    asked.push(request.url());
    if (!request.url().startsWith(url + "/") && !request.url().startsWith("data:")) troubles.push("asks " + request.url());
  });
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (e) => console.error("CSP " + e.violatedDirective)));
  later(async () => {
    await context.close();
  });
  page.check = () => assert.deepEqual(troubles, [], "console, policy and requests");
  page.asked = (end) => asked.filter((it) => it.endsWith(end)).length;
  return { page, context };
}

/** Opens it, and waits until it shows its data. */
export async function openFilled(browser, proxy, settings) {
  const opened = await openPage(browser, proxy.url, settings);
  await opened.page.goto(proxy.url + "/status");
  await opened.page.waitForSelector("#all:not([hidden])");
  return opened;
}

/** Fails on what axe-core finds, in both colour schemes, and on a page wider than the window in two widths. */
export async function checkLook(browser, page) {
  for (const [width, height] of [[375, 812], [1440, 900]]) {
    await page.setViewportSize({ width, height });
    const [wide, most] = await page.evaluate(() => [document.scrollingElement.scrollWidth, innerWidth]);
    assert.ok(wide <= most, `${wide} of ${most} pixels at ${width}`);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(await axeSource(browser));
      const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
      const told = found.violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.target).join(", ")}`);
      assert.deepEqual(told, [], `${width} ${colorScheme}`);
    }
  }
}

async function axeSource(browser) {
  const { readFile } = await import("node:fs/promises");
  return readFile(browser.axe, "utf8");
}

/** Waits until a table has a row in which each text is found; gives the row's text. */
export async function rowWith(page, table, ...texts) {
  let rows = page.locator(`#${table} tbody tr`);
  for (const text of texts) rows = rows.filter({ hasText: text });
  await rows.first().waitFor({ state: "attached" });
  return (await rows.first().innerText()).replaceAll(/\s+/g, " ");
}

/** Waits until a table has no such row. */
export async function rowGone(page, table, text) {
  await page.locator(`#${table} tbody tr`).filter({ hasText: text }).first().waitFor({ state: "detached" });
}

/** Waits until the line of state contains a text. */
export async function stateSays(page, text) {
  await page.locator("#state").filter({ hasText: text }).waitFor();
}
