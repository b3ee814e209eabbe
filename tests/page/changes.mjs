// What a poll may change, how the page waits, and what it says when it is refused or cut off.
import assert from "node:assert/strict";
import { checkLook, openFilled, openPage, rowWith, stateSays } from "./browser.mjs";
import { answer, start, tryModel, tryState } from "./tests.mjs";

const CARL = "sk-carl-0123456789", WRONG = "sk-wrong-0123456789";

/** Puts `change` between the server and the page: it gets what /status.json answers, and gives what the page sees. */
async function between(page, change) {
  await page.route("**/status.json", async (route) => {
    try {
      const json = await (await route.fetch()).json();
      await route.fulfill({ json: change(json) });
    } catch { /* The page went away meanwhile. */ }
  });
}

const nextPoll = (page) => page.waitForRequest("**/status.json");

export const CHANGES = {
  async "a poll without news changes nothing on the page"(t) {
    const { proxy } = await start(t);
    await answer(proxy, "hello");
    const { page } = await openPage(t.browser, proxy.url, t);
    let first;
    await between(page, (json) => (first ??= json));
    await page.goto(proxy.url + "/status");
    await page.waitForSelector("#all:not([hidden])");
    await page.evaluate(() => {
      window.changed = [];
      const observer = new MutationObserver((records) => window.changed.push(...records.map((it) => it.target.outerHTML ?? it.target.data)));
      for (const id of ["all", "state"]) {
        observer.observe(document.getElementById(id), { subtree: true, childList: true, characterData: true, attributes: true });
      }
    });
    // The data of the first two have been shown when the third is asked for.
    for (let i = 0; i < 3; i += 1) await nextPoll(page);
    assert.deepEqual(await page.evaluate(() => window.changed), []);
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0, "nothing moves");
    page.check();
  },

  async "a selected text and the place in a list stay when requests are added"(t) {
    const { proxy } = await start(t);
    for (let i = 0; i < 25; i += 1) await answer(proxy, "hello");
    const { page } = await openFilled(t.browser, proxy, t);
    await page.waitForFunction(() => document.querySelectorAll("#recent tbody tr").length === 25);
    const look = () => page.evaluate(() => {
      const box = document.querySelector("#recent").parentNode;
      return [getSelection().toString().trim(), Math.round(window.row.getBoundingClientRect().top - box.getBoundingClientRect().top)];
    });
    await page.evaluate(() => {
      document.querySelector("#recent").parentNode.scrollTop = 300;
      window.row = document.querySelectorAll("#recent tbody tr")[12];
      getSelection().selectAllChildren(window.row.lastChild);
    });
    const [text, place] = await look();
    assert.match(text, /^req_/);
    await answer(proxy, "hello");
    await page.waitForFunction(() => document.querySelectorAll("#recent tbody tr").length === 26);
    // The browser moves the list in its next frame.
    await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
    const [still, now] = await look();
    assert.equal(still, text);
    assert.ok(Math.abs(now - place) <= 2, `moved from ${place} to ${now}`);
    page.check();
  },

  async "the page asks less and less often while nothing answers"(t) {
    const { proxy } = await start(t);
    const { page } = await openPage(t.browser, proxy.url, { ...t, expected: /ERR_FAILED/ });
    await page.clock.install();
    await page.goto(proxy.url + "/status");
    await page.waitForSelector("#all:not([hidden])");
    await page.route("**/status.json", (route) => route.abort());
    await page.clock.runFor(3000);
    await stateSays(page, "The server does not answer. Trying again.");
    const before = page.asked("/status.json");
    for (let i = 0; i < 60; i += 1) await page.clock.runFor(1000);
    const count = page.asked("/status.json") - before;
    assert.ok(count >= 1 && count <= 5, `${count} requests in a minute`);
    page.check();
  },

  async "an empty page, and one that gets an error, are as accessible"(t) {
    const { proxy } = await start(t);
    const { page } = await openPage(t.browser, proxy.url, { ...t, expected: /status of 500/ });
    const none = { upstreams: [], models: [], models_total: 0, live: [], recent: [], repairs: [], config: [] };
    await between(page, (json) => ({ ...json, ...none }));
    await page.goto(proxy.url + "/status");
    await page.waitForSelector("#all:not([hidden])");
    for (const [table, text] of [["live", "No answer"], ["models", "No model"], ["recent", "No request"], ["repairs", "No request"]]) {
      await rowWith(page, table, text);
    }
    await checkLook(t.browser, page);
    await page.unroute("**/status.json");
    await page.route("**/status.json", (route) => route.fulfill({ status: 500, json: { error: "it broke" } }));
    await stateSays(page, "The server answers with status 500: it broke");
    await checkLook(t.browser, page);
    page.check();
  },

  async "a key with limits is told in words what it may not do, and when it may again"(t) {
    const more = `[[key]]\nname = "carl"\nkey = "${CARL}"\nmodels = ["m"]\nrequests_per_minute = 1\n`;
    const { proxy } = await start(t, undefined, more);
    const { page } = await openPage(t.browser, proxy.url, { ...t, allowed: 4 });
    await page.goto(proxy.url + "/status");
    await page.fill("#key", CARL);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#all:not([hidden])");
    await rowWith(page, "keys", "carl", "m");
    await tryModel(page, "hello", "other");
    await tryState(page, /Not allowed: .*other/);
    await tryModel(page, "hello");
    await tryState(page, /Complete|Too many/);
    await tryModel(page, "hello");
    await tryState(page, /Too many requests: .+ Try again at \d\d:\d\d:\d\d/);
    // Looking is not counted.
    await nextPoll(page);
    await stateSays(page, "All 2 upstreams answer");
    page.check();
  },

  async "who sends too many wrong keys is told when to try again, and a right key works at once"(t) {
    const { proxy } = await start(t, undefined, "", { PROXY_API_KEYS: CARL });
    for (let i = 0; i < 14; i += 1) await fetch(proxy.url + "/status.json", { headers: { "X-Api-Key": WRONG } });
    const { page } = await openPage(t.browser, proxy.url, { ...t, allowed: 2 });
    await page.goto(proxy.url + "/status");
    await page.fill("#key", WRONG);
    await page.keyboard.press("Enter");
    await stateSays(page, /Too many requests: .+ Try again at \d\d:\d\d:\d\d/);
    assert.ok(await page.locator("#all").isHidden());
    await page.fill("#key", CARL);
    await page.keyboard.press("Enter");
    await stateSays(page, "All 2 upstreams answer");
    page.check();
  },

  async "a lost connection is told below the answer, which stays"(t) {
    const { proxy } = await start(t);
    const { page } = await openPage(t.browser, proxy.url, { ...t, expected: /net::ERR_/ });
    await page.goto(proxy.url + "/status");
    await page.waitForSelector("#all:not([hidden])");
    await tryModel(page, "endless");
    await page.locator("#answer").getByText("begun").waitFor();
    proxy.signal("SIGKILL");
    await tryState(page, "The connection to the server was lost");
    assert.equal(await page.locator("#answer").innerText(), "begun");
    await stateSays(page, "The server does not answer");
    assert.ok(await page.locator("#upstreams").isVisible(), "what was known stays");
    page.check();
  },

  async "the page works below the path that a reverse proxy puts before it"(t) {
    const { proxy } = await start(t);
    const { page } = await openPage(t.browser, proxy.url, t);
    await page.route("**/ai/**", async (route) => {
      await route.fulfill({ response: await route.fetch({ url: route.request().url().replace("/ai/", "/") }) });
    });
    await page.goto(proxy.url + "/ai/status");
    await stateSays(page, "All 2 upstreams answer");
    await tryModel(page, "hello");
    await tryState(page, "Complete");
    page.check();
  },
};
