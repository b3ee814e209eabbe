// Pictures of the status page for the README: the real page with data that are always the same.
import { fileURLToPath } from "node:url";
import { openPage } from "./browser.mjs";
import { startProxy } from "./proxy.mjs";

const NOW = Date.UTC(2026, 10, 30, 12, 0, 0) / 1000;
const wave = (i, most, least) => Math.round(least + (most - least) * (0.5 + 0.4 * Math.sin(i / 7) + 0.1 * Math.cos(i * 1.7)));

const upstream = (name, base_url, more) => ({ name, base_url, circuit: "closed", state: "ok", latency_ms: 200, models: 2,
  in_flight: 0, list_age_s: 12, list_stale: false, last_error: null, last_error_age_s: null, ...more });
const model = (name, upstream, capabilities, context_length, target = null) => ({ name, upstream, target, capabilities, context_length });
const MODELS = [
  model("coder", "lab, openrouter", ["completion", "tools"], 131072, "qwen3-coder"),
  model("claude-sonnet-4.5", "openrouter", ["completion", "tools", "vision", "thinking"], 200000),
  model("gpt-4o-mini", "openrouter", ["completion", "tools", "vision"], 128000),
  model("llama3.2", "ollama", ["completion", "tools"], 131072),
  model("nomic-embed-text", "ollama", ["embedding"], 2048),
  model("qwen3-32b", "lab", ["completion", "tools", "thinking"], 40960),
];

function request(i) {
  const { name, upstream } = MODELS[(i * 5) % MODELS.length], isBad = i === 3, kind = name.startsWith("nomic") ? "/api/embed" : null;
  return { id: "req_" + (0x5a31c0d7 + i * 0x01f3d5b9).toString(16).slice(-8), time: NOW - 7 - i * 23,
    route: kind ?? ["/api/chat", "/v1/chat/completions", "/v1/messages"][i % 3], model: name, upstream: upstream.split(",")[0],
    status: isBad ? 429 : 200, attempts: i % 9 === 4 ? 2 : 1, first_token_ms: kind || isBad ? null : wave(i * 3, 900, 180),
    duration_ms: wave(i * 5, 9000, 400), tokens_in: wave(i * 2, 6000, 40), tokens_out: kind || isBad ? 0 : wave(i * 4, 700, 30),
    error: isBad ? "requests_per_minute" : null, key: i % 3 ? "laptop" : "home-assistant" };
}

const DATA = {
  version: "0.1.0", uptime_s: 190000, time_s: NOW,
  upstreams: [
    upstream("lab", "https://vllm.lan/v1", { latency_ms: 41, in_flight: 2 }),
    upstream("openrouter", "https://openrouter.ai/api/v1", { latency_ms: 312, models: 318, in_flight: 1 }),
    upstream("ollama", "http://10.0.0.12:11434", { circuit: "open", state: "unreachable", latency_ms: 9, list_age_s: 260,
      list_stale: true, last_error: "connection refused", last_error_age_s: 8 }),
  ],
  models: MODELS, models_total: MODELS.length,
  live: [
    { id: "req_81f2a0c4", route: "/api/chat", model: "qwen3-32b", upstream: "lab", seconds: 6.4, tokens: 291 },
    { id: "req_81f9117b", route: "/v1/messages", model: "claude-sonnet-4.5", upstream: "openrouter", seconds: 19, tokens: 1203 },
    { id: "req_82004d5e", route: "/v1/responses", model: "coder", upstream: "lab", seconds: 1.9, tokens: 88 },
  ],
  live_total: 3, workers: { busy: 3, limit: 256 }, queue: 0, connections: 11,
  memory: { held: 340000, limit: 1.2e8, resident: 1.5e7 },
  minutes: Array.from({ length: 60 }, (_, i) => ({ requests: wave(i, 24, 2), errors: [17, 18, 41].includes(i) ? 2 : 0,
    first_token_ms: wave(i + 20, 620, 240), tokens_per_second: wave(i + 9, 68, 31) })),
  recent: Array.from({ length: 100 }, (_, i) => request(i)),
  repairs: [{ upstream: "openrouter", model: "gpt-4o-mini", repair: "max_tokens sent as max_completion_tokens",
    reason: "unsupported parameter", age_s: 1500 }],
  keys: [
    { name: "laptop", requests: 412, refused: 1, tokens_in: 801230, tokens_out: 90120, tokens_today: 212400,
      tokens_per_day: 1000000, requests_per_minute: 60, max_parallel: 4, in_flight: 2, models: [] },
    { name: "home-assistant", requests: 96, refused: 0, tokens_in: 88210, tokens_out: 4210, tokens_today: null,
      tokens_per_day: null, requests_per_minute: null, max_parallel: null, in_flight: 1, models: ["llama*", "qwen*"] },
  ],
  config: [{ name: "OLLAMA_HOST", value: "0.0.0.0:11434" }],
};

/** Writes status.png and status-phone.png beside this file. */
export async function takePictures(browser, binary) {
  const proxy = await startProxy(binary, [["lab", "http://127.0.0.1:9/v1"]]), cleanups = [() => proxy.stop()];
  const later = (cleanup) => cleanups.unshift(cleanup);
  for (const [name, viewport, colorScheme] of [
    ["status.png", { width: 1440, height: 1180 }, "light"],
    ["status-phone.png", { width: 375, height: 812 }, "dark"],
  ]) {
    const { page } = await openPage(browser, proxy.url, { later, viewport, colorScheme });
    await page.clock.setFixedTime(NOW * 1000);
    await page.route("**/status.json", (route) => route.fulfill({ json: DATA }));
    await page.goto(proxy.url + "/status");
    await page.waitForSelector("#all:not([hidden])");
    await page.evaluate(() => document.fonts.ready);
    await page.screenshot({ path: fileURLToPath(new URL(name, import.meta.url)) });
  }
  for (const cleanup of cleanups) await cleanup();
}
