// What the status page must do, each with a proxy and upstreams of its own.
import assert from "node:assert/strict";
import { checkLook, openFilled, openPage, rowGone, rowWith, stateSays } from "./browser.mjs";
import { startProxy } from "./proxy.mjs";
import { Upstream, gate } from "./upstream.mjs";

const ANNA = "sk-anna-0123456789", BOB = "sk-bob-0123456789";
const HOSTILE = "<img src=x onerror=alert(1)>", LONG = "vendor/" + "long-name-".repeat(20);

/** A proxy before upstreams with these models each. */
export async function start({ binary, later }, models = [["m", "other"], ["spare"]], more = "", environment = {}) {
  const upstreams = [];
  for (const list of models) {
    const upstream = await new Upstream(list).start();
    later(() => upstream.stop());
    upstreams.push(upstream);
  }
  const names = upstreams.map((upstream, i) => [["lab", "store"][i], upstream.url]);
  const proxy = await startProxy(binary, names, more, environment);
  later(() => proxy.stop());
  return { proxy, upstreams };
}

/** Sends a message as a client does. */
function ask(proxy, text, { model = "m", path = "/api/chat", headers = {}, ...more } = {}) {
  const messages = [{ role: "user", content: text }];
  return fetch(proxy.url + path, { method: "POST", headers, body: JSON.stringify({ model, messages, ...more }) });
}

export async function answer(...arguments_) {
  const response = await ask(...arguments_);
  return [response.status, await response.text()];
}

/** Sends a message by the page's form. */
export async function tryModel(page, text, model = "m") {
  await page.fill("#try-model", model);
  await page.fill("#try-text", text);
  await page.click("#send");
}

export const tryState = (page, text) => page.locator("#try-state").filter({ hasText: text }).waitFor();

export const TESTS = {
  async "each part tells what happened"(t) {
    const more = `[[model]]\nname = "virtual"\nuse = ["lab/m", "store/spare"]\ncontext_length = 4321\n` +
      `[[key]]\nname = "anna"\nkey = "${ANNA}"\nrequests_per_minute = 60\ntokens_per_day = 5000\nmax_parallel = 4\n`;
    const { proxy } = await start(t, undefined, more);
    const headers = { "X-Api-Key": ANNA };
    assert.equal((await answer(proxy, "hello", { headers }))[0], 200);
    const [status] = await answer(proxy, "hello", { headers, path: "/v1/chat/completions", temperature: 1 });
    assert.equal(status, 200);
    assert.equal((await answer(proxy, "hello", { headers, model: "none" }))[0], 404);
    const { page } = await openPage(t.browser, proxy.url, { ...t, allowed: 1 });
    await page.goto(proxy.url + "/status");
    await page.fill("#key", ANNA);
    await page.keyboard.press("Enter");
    await stateSays(page, "All 2 upstreams answer");
    assert.match(await page.locator("#figures").innerText(), /Answers in progress\s+0\s[^]*of 256[^]*MiB/);
    await rowWith(page, "upstreams", "lab", "127.0.0.1", "ok");
    await rowWith(page, "upstreams", "store", "ok");
    await rowWith(page, "models", "virtual", "lab", "4,321");
    await rowWith(page, "models", "spare", "store", "completion");
    assert.match(await rowWith(page, "recent", "/api/chat", "lab", "200"), / 11 3 anna /);
    await rowWith(page, "recent", "/v1/chat/completions", "2 attempts");
    await rowWith(page, "recent", "none", "404");
    await rowWith(page, "repairs", "lab", "m", "temperature");
    assert.match(await rowWith(page, "keys", "anna"), /of 5,000[^]*of 4 60/);
    await page.click("summary:has-text('Configuration')");
    await rowWith(page, "config", "MAX_CONNECTIONS", "100");
    for (const chart of ["Requests: 3, at most 3", "Errors: 1, at most 1", "First token: ", "Tokens/s: "]) {
      await page.locator(`#charts svg[aria-label^='${chart}']`).waitFor({ state: "attached" });
    }
    const shown = await page.content();
    for (const secret of [ANNA, "hello", "Hello"]) assert.ok(!shown.includes(secret), secret);
    await checkLook(t.browser, page);
    page.check();
  },

  async "an answer in progress is seen to grow, and goes when it ends"(t) {
    const { proxy, upstreams: [lab] } = await start(t);
    lab.gates = [gate(), gate()];
    const { page } = await openFilled(t.browser, proxy, t);
    const running = answer(proxy, "hold");
    for (const [i, count] of [[0, " 1 "], [1, " 2 "]]) {
      const row = page.locator("#live tbody tr").filter({ hasText: "/api/chat" });
      await row.locator("td").nth(2).filter({ hasText: count.trim() }).waitFor({ state: "attached" });
      await rowWith(page, "live", "lab");
      lab.gates[i].open();
    }
    await running;
    await rowGone(page, "live", "/api/chat");
    assert.match(await rowWith(page, "recent", "/api/chat"), / 11 3 /);
    page.check();
  },

  async "an upstream that dies while one looks is in trouble until it answers again"(t) {
    const { proxy, upstreams: [lab] } = await start(t);
    const { page } = await openFilled(t.browser, proxy, t);
    await stateSays(page, "All 2 upstreams answer");
    lab.die();
    for (let i = 0; i < 8; i += 1) await answer(proxy, "hello");
    await stateSays(page, "1 of 2 upstreams is in trouble: lab");
    await rowWith(page, "upstreams", "lab", "ago");
    await rowWith(page, "recent", "m", "502");
    await checkLook(t.browser, page);
    lab.isDead = false;
    // A circuit that is open lets a request through after a while.
    const isWell = async () => (await page.locator("#state").innerText()).includes("All 2");
    for (let i = 0; i < 100 && !(await isWell()); i += 1) {
      await answer(proxy, "hello");
      await page.waitForResponse((response) => response.url().endsWith("/status.json"));
    }
    await stateSays(page, "All 2 upstreams answer");
    page.check();
  },

  async "a key is asked for once, kept in this tab, and forgotten when told to"(t) {
    const { proxy } = await start(t, undefined, "", { PROXY_API_KEYS: BOB });
    const { page } = await openPage(t.browser, proxy.url, { ...t, allowed: 4 });
    await page.goto(proxy.url + "/status");
    await page.waitForSelector("#login:not([hidden])");
    await stateSays(page, "A key is needed");
    assert.equal(await page.evaluate(() => document.activeElement.id), "key");
    await checkLook(t.browser, page);
    await page.fill("#key", "sk-wrong-0123456789");
    await page.keyboard.press("Enter");
    await stateSays(page, "The key is not accepted");
    assert.ok(await page.locator("#all").isHidden());
    await page.fill("#key", BOB);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#all:not([hidden])");
    const places = await page.evaluate(() => [document.cookie, JSON.stringify(localStorage), location.href,
      document.documentElement.outerHTML, JSON.stringify(sessionStorage)]);
    assert.deepEqual(places.map((place) => place.includes(BOB)), [false, false, false, false, true]);
    await tryModel(page, "hello");
    await tryState(page, "Complete");
    await page.reload();
    await page.waitForSelector("#all:not([hidden])");
    await page.click("#forget");
    await page.waitForSelector("#login:not([hidden])");
    assert.ok(!(await page.evaluate(() => JSON.stringify(sessionStorage))).includes(BOB));
    page.check();
  },

  async "a model is tried piece by piece"(t) {
    const { proxy, upstreams: [lab] } = await start(t);
    lab.gates = [gate()];
    const { page } = await openFilled(t.browser, proxy, t);
    await tryModel(page, "hold");
    // The second piece is not sent before the first one is seen.
    await page.locator("#answer").getByText("one", { exact: true }).waitFor();
    lab.gates[0].open();
    await page.locator("#answer").getByText("one two", { exact: true }).waitFor();
    await tryState(page, "Complete: 3 tokens");
    await tryModel(page, "think");
    await tryState(page, "Complete");
    assert.equal(await page.locator("#thinking").innerText(), "Let me see.");
    assert.equal(await page.locator("#answer").innerText(), "An answer.");
    await checkLook(t.browser, page);
    page.check();
  },

  async "stop ends the answer up to the upstream"(t) {
    const { proxy, upstreams: [lab] } = await start(t);
    const { page } = await openFilled(t.browser, proxy, t);
    await tryModel(page, "endless");
    await page.locator("#answer").getByText("begun").waitFor();
    await page.click("#stop");
    await tryState(page, "Stopped");
    await lab.left.opened;
    await tryModel(page, "hello");
    await tryState(page, "Complete");
    page.check();
  },

  async "a model that cannot answer says why"(t) {
    const { proxy, upstreams: [lab] } = await start(t);
    const { page } = await openFilled(t.browser, proxy, { ...t, allowed: 1 });
    await tryModel(page, "hello", "none");
    await tryState(page, "model 'none' not found");
    // The answer breaks off.
    lab.gates = [gate()];
    await tryModel(page, "hold");
    await page.locator("#answer").getByText("one", { exact: true }).waitFor();
    lab.die();
    await tryState(page, "Error: ");
    page.check();
  },

  async "requests are filtered by model, upstream, status and id"(t) {
    const { proxy } = await start(t);
    for (const model of ["m", "other", "spare", "none"]) await answer(proxy, "hello", { model });
    const { page } = await openFilled(t.browser, proxy, t);
    const rows = page.locator("#recent tbody tr"), count = async (expected) => {
      await page.waitForFunction((n) => document.querySelectorAll("#recent tbody tr").length === n, expected);
    };
    await count(4);
    await page.selectOption("select[name=model]", "spare");
    await count(1);
    await rowWith(page, "recent", "store");
    await page.click("button[type=reset]");
    await page.selectOption("select[name=upstream]", "lab");
    await count(2);
    await page.click("button[type=reset]");
    await page.selectOption("select[name=status]", "!");
    await count(1);
    await page.selectOption("select[name=status]", "200");
    await count(3);
    await page.click("button[type=reset]");
    const id = (await rows.first().locator("td").last().innerText()).trim();
    assert.ok(proxy.log().includes(id), "the id is in the log");
    await page.fill("input[name=id]", id);
    await count(1);
    page.check();
  },

  async "it asks every 2 s while it is seen, and not while it is hidden"(t) {
    const { proxy } = await start(t);
    const { page } = await openPage(t.browser, proxy.url, t);
    // The clock stands still from the beginning, so that nothing is asked but what the test waits for.
    const begin = Date.now();
    await page.clock.install({ time: begin });
    await page.clock.pauseAt(begin + 1000);
    await page.goto(proxy.url + "/status");
    await page.waitForSelector("#all:not([hidden])");
    assert.equal(page.asked("/status.json"), 1);
    const hide = (isHidden) => page.evaluate((value) => {
      Object.defineProperty(document, "hidden", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isHidden);
    const updated = () => page.waitForResponse((response) => response.url().endsWith("/status.json"));
    const settled = async (change) => {
      const told = await page.locator("#updated").innerText(), next = updated();
      await change();
      await next;
      await page.locator("#updated").filter({ hasNotText: told }).waitFor();
    };
    for (let i = 0; i < 3; i += 1) {
      const before = page.asked("/status.json");
      await page.clock.runFor(1900);
      assert.equal(page.asked("/status.json"), before);
      await settled(() => page.clock.runFor(200));
      assert.equal(page.asked("/status.json"), before + 1);
    }
    await hide(true);
    const before = page.asked("/status.json");
    await page.clock.runFor(60000);
    assert.equal(page.asked("/status.json"), before);
    await settled(() => hide(false));
    page.check();
  },

  async "the keyboard reaches everything, and keeps its place while data change"(t) {
    const { proxy } = await start(t);
    await answer(proxy, "hello");
    const { page } = await openFilled(t.browser, proxy, t);
    const seen = [];
    for (let i = 0; i < 40; i += 1) {
      await page.keyboard.press("Tab");
      seen.push(await page.evaluate(() => {
        const it = document.activeElement;
        return it.id || it.name || it.getAttribute("aria-label") || it.textContent.trim();
      }));
    }
    for (const name of ["Upstreams", "Models", "try-model", "try-text", "send", "model", "upstream", "status", "id",
      "Show all", "Requests, the newest first", "Configuration in force"]) assert.ok(seen.includes(name), `${name} in ${seen}`);
    await page.focus("input[name=id]");
    await page.keyboard.type("req");
    await page.evaluate(() => { document.querySelector("#recent tbody tr").mark = 1; });
    await answer(proxy, "hello");
    await page.waitForFunction(() => document.querySelectorAll("#recent tbody tr").length === 2);
    assert.equal(await page.evaluate(() => document.activeElement.name + document.activeElement.value), "idreq");
    assert.equal(await page.evaluate(() => document.querySelectorAll("#recent tbody tr")[1].mark), 1);
    await page.focus("#try-model");
    await page.keyboard.type("m");
    await page.focus("#try-text");
    await page.keyboard.type("hello");
    await page.keyboard.press("Control+Enter");
    await tryState(page, "Complete");
    page.check();
  },

  async "names of any kind and number are text"(t) {
    const many = Array.from({ length: 2000 }, (_, i) => `model-${i}`);
    const { proxy } = await start(t, [[HOSTILE, LONG, ...many]]);
    assert.equal((await answer(proxy, "hello", { model: HOSTILE }))[0], 200);
    await answer(proxy, "hello", { model: LONG });
    const { page } = await openFilled(t.browser, proxy, t);
    await rowWith(page, "models", HOSTILE);
    await rowWith(page, "recent", HOSTILE);
    await page.locator("#models-note").filter({ hasText: "of 2,002" }).waitFor();
    assert.equal(await page.locator("img").count(), 0);
    await tryModel(page, "hello", HOSTILE);
    await tryState(page, "Complete");
    await checkLook(t.browser, page);
    page.check();
  },

  async "a proxy that goes away is missed, and found again"(t) {
    const { proxy } = await start(t);
    const { page } = await openFilled(t.browser, proxy, t);
    proxy.signal("SIGSTOP");
    await stateSays(page, "The server does not answer");
    proxy.signal("SIGCONT");
    await stateSays(page, "All 2 upstreams answer");
    page.check();
  },
};
