"use strict";
const KEY = "ollama-openai-proxy-key", PAUSE = 2000, $ = (id) => document.getElementById(id);
let timer = 0, last = null, running = null;

function key() { try { return sessionStorage.getItem(KEY); } catch { return null; } }
function headers() { const k = key(); return k ? { Authorization: "Bearer " + k } : {}; }
function make(name, props, ...kids) {
  const e = Object.assign(document.createElement(name), props);
  e.append(...kids);
  return e;
}
const round = (x, digits) => x == null ? "-" : Number(x).toLocaleString("en", { maximumFractionDigits: digits ?? 0 });
const bytes = (x) => x == null ? "-" : round(x / 1048576, 1) + " MiB";
const millis = (x) => x == null ? "-" : x < 1000 ? round(x) + " ms" : round(x / 1000, 1) + " s";
const age = (s) => s == null ? "-" : s < 120 ? round(s) + " s" : s < 7200 ? round(s / 60) + " min" : round(s / 3600) + " h";
const clock = (s) => new Date(s * 1000).toLocaleTimeString();
const statusClass = (code) => code < 400 ? "good" : code < 500 ? "warn" : "bad";

// Columns: [heading, value or [value, class], is a number].
function table(id, rows, columns, none) {
  const head = make("tr", {}, ...columns.map(([title, , n]) => make("th", { scope: "col", textContent: title, className: n ? "n" : "" })));
  const body = rows.map((row) => make("tr", {}, ...columns.map(([, value, n]) => {
    const [text, tone] = [].concat(value(row));
    return make("td", { textContent: text ?? "-", className: [n ? "n" : "", tone ?? ""].join(" ").trim() });
  })));
  const content = rows.length ? [make("thead", {}, head), make("tbody", {}, ...body)]
    : [make("tbody", {}, make("tr", {}, make("td", { className: "none", textContent: none })))];
  $(id).replaceChildren(...content);
}

function tiles(pairs) {
  $("figures").replaceChildren(...pairs.map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
}

function chart(title, minutes, value, show, isBad) {
  const ns = "http://www.w3.org/2000/svg", values = minutes.map(value), most = Math.max(0, ...values.map((x) => x ?? 0));
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 60 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const told = most > 0 ? "highest " + show(most) + ", last " + show(values.at(-1)) : "nothing yet";
  svg.setAttribute("aria-label", title + " by minute: " + told);
  values.forEach((x, i) => {
    const height = most > 0 ? 20 * (x ?? 0) / most : 0, bar = document.createElementNS(ns, "rect");
    for (const [k, v] of Object.entries({ x: i + 60 - values.length, y: 20 - height, width: .8, height })) bar.setAttribute(k, v);
    if (isBad) bar.setAttribute("class", "bad");
    svg.append(bar);
  });
  return make("figure", {}, make("figcaption", { textContent: title + ": " + told }), svg);
}

function options(select, values, all) {
  const chosen = select.value, wanted = all == null ? values : ["", ...values];
  if ([...select.options].map((o) => o.value).join("\n") === wanted.join("\n") && select.options.length) return;
  select.replaceChildren(...wanted.map((v) => make("option", { value: v, textContent: v || all })));
  if (wanted.includes(chosen)) select.value = chosen;
}

function recent() {
  const f = $("filter").elements, rows = last.recent.filter((r) =>
    (!f.model.value || r.model === f.model.value) && (!f.upstream.value || r.upstream === f.upstream.value) &&
    (!f.status.value || String(r.status) === f.status.value));
  table("recent", rows, [["Time", (r) => clock(r.time)], ["Route", (r) => r.route], ["Model", (r) => r.model],
    ["Upstream", (r) => r.upstream], ["Status", (r) => [r.status, statusClass(r.status)], 1],
    ["First token", (r) => millis(r.first_token_ms), 1], ["Duration", (r) => millis(r.duration_ms), 1],
    ["In", (r) => round(r.tokens_in), 1], ["Out", (r) => round(r.tokens_out), 1], ["Error", (r) => r.error],
    ["Request id", (r) => r.id]], "No request yet.");
}

function show(s) {
  last = s;
  $("version").textContent = s.version;
  const down = s.upstreams.filter((u) => u.circuit !== "closed").length;
  $("state").textContent = down ? down + " of " + s.upstreams.length + " upstreams out" : "All upstreams in use";
  $("state").className = down ? "bad" : "good";
  tiles([["Running since", age(s.uptime_s)], ["Answers in progress", round(s.live.length)],
    ["Workers", round(s.workers.busy) + " of " + round(s.workers.limit)], ["Waiting requests", round(s.queue)],
    ["Connections", round(s.connections)], ["Memory held", bytes(s.memory.held)], ["Memory resident", bytes(s.memory.resident)]]);
  table("live", s.live, [["Route", (r) => r.route], ["Model", (r) => r.model], ["Upstream", (r) => r.upstream],
    ["Since", (r) => age(r.seconds), 1], ["Tokens", (r) => round(r.tokens), 1],
    ["Tokens/s", (r) => round(r.seconds > 0 ? r.tokens / r.seconds : null, 1), 1], ["Request id", (r) => r.id]], "No answer in progress.");
  $("charts").replaceChildren(chart("Requests", s.minutes, (m) => m.requests, round),
    chart("Errors", s.minutes, (m) => m.errors, round, true),
    chart("Time to first token", s.minutes, (m) => m.first_token_ms, millis),
    chart("Tokens per second", s.minutes, (m) => m.tokens_per_second, (x) => round(x, 1)));
  table("upstreams", s.upstreams, [["Name", (u) => u.name], ["Address", (u) => u.base_url],
    ["Circuit", (u) => [u.circuit.replace("_", " "), u.circuit === "closed" ? "good" : "bad"]],
    ["Latency", (u) => millis(u.latency_ms), 1], ["Models", (u) => round(u.models), 1], ["In flight", (u) => round(u.in_flight), 1],
    ["Age of list", (u) => [age(u.list_age_s), u.list_stale ? "warn" : ""], 1], ["Last error", (u) => u.last_error]], "No upstream.");
  table("models", s.models, [["Name", (m) => m.name], ["Upstream", (m) => m.upstream], ["Capabilities", (m) => m.capabilities.join(", ")],
    ["Window", (m) => round(m.context_length), 1]], "No model is listed.");
  options($("try-model"), s.models.map((m) => m.name));
  const f = $("filter").elements, each = (name) => [...new Set(s.recent.map((r) => r[name]).filter((x) => x != null).map(String))].sort();
  options(f.model, each("model"), "all");
  options(f.upstream, each("upstream"), "all");
  options(f.status, each("status"), "all");
  recent();
  table("repairs", s.repairs, [["Upstream", (r) => r.upstream], ["Model", (r) => r.model], ["What is done", (r) => r.repair],
    ["Known for", (r) => age(r.age_s), 1]], "Nothing had to be repaired.");
  table("config", s.config, [["Name", (c) => c.name], ["Value", (c) => c.value]], "All defaults.");
}

function locked(isLocked) {
  $("login").hidden = !isLocked;
  $("all").hidden = isLocked;
}

async function load() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const answer = await fetch("status.json", { headers: headers(), cache: "no-store" });
    if (answer.status === 401) {
      locked(true);
      $("state").textContent = key() ? "This key is not known" : "A key is needed";
      return;
    }
    if (!answer.ok) throw new Error("HTTP " + answer.status);
    const status = await answer.json();
    locked(false);
    show(status);
  } catch (error) {
    $("state").textContent = "No answer from the proxy: " + error.message;
    $("state").className = "bad";
  }
  timer = setTimeout(load, PAUSE);
}

async function send(event) {
  event.preventDefault();
  const out = $("answer");
  running = new AbortController();
  [$("send").disabled, $("stop").disabled, out.textContent] = [true, false, ""];
  try {
    const answer = await fetch("api/chat", { method: "POST", signal: running.signal,
      headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify({ model: $("try-model").value, messages: [{ role: "user", content: $("try-text").value }] }) });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "", piece; !(piece = await reader.read()).done;) {
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const line of lines.filter((l) => l)) {
        const told = JSON.parse(line);
        out.textContent += told.error ? "Error: " + told.error : told.message?.content ?? "";
      }
      if (!answer.ok && rest) out.textContent = "Error: " + (JSON.parse(rest).error ?? answer.status);
    }
  } catch (error) {
    out.textContent += error.name === "AbortError" ? "\n(stopped)" : "\nError: " + error.message;
  }
  [$("send").disabled, $("stop").disabled] = [false, true];
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  try { sessionStorage.setItem(KEY, $("key").value); } catch { /* Storage is turned off. */ }
  $("key").value = "";
  load();
});
$("try").addEventListener("submit", send);
$("stop").addEventListener("click", () => running?.abort());
$("filter").addEventListener("change", recent);
document.addEventListener("visibilitychange", load);
load();
