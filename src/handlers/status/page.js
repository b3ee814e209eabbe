// The status page: asks for status.json every 2 s while it is visible, and changes only what differs, so
// that focus, selections and scroll positions stay. Texts of the server become text nodes, never markup.
"use strict";
const KEY = "ollama-openai-proxy-key", PAUSE = 2000, LONGEST_PAUSE = 30000, PATIENCE = 15000;
const $ = (id) => document.getElementById(id);
let timer, pause = PAUSE, request = null, chat = null, last = null;

// Where storage is turned off, the key lasts as long as the page.
const store = (() => { try { return sessionStorage; } catch { return {}; } })();
const headers = () => store[KEY] ? { "X-Api-Key": store[KEY] } : {};

const format = (x, digits = 0) => x == null ? "-" : x.toLocaleString(undefined, { maximumFractionDigits: digits });
const decimal = (x) => format(x, 1);
const bytes = (x) => x == null ? "-" : format(x / 1048576, x < 1e8 ? 1 : 0) + " MiB";
const millis = (x) => x == null ? "-" : x < 1000 ? format(x) + " ms" : decimal(x / 1000) + " s";
const age = (s) => s == null ? "-" : s < 100 ? format(s) + " s" : s < 6000 ? format(s / 60) + " min"
  : s < 172800 ? format(s / 3600) + " h" : format(s / 86400) + " days";
const limit = (x) => x == null ? "" : "of " + format(x);
function clock(s) {
  const date = new Date(s * 1000), isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString() : date.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
}

function make(name, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "rect", "title"].includes(name);
  const element = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const entry of Object.entries(attributes)) element.setAttribute(...entry);
  element.append(...children);
  return element;
}
function setText(node, text) { if (node.textContent !== text) node.textContent = text; }
function set(element, name, value) { if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value); }
function say(text, tone) {
  setText($("state"), text);
  set($("state"), "class", "dot " + tone);
  document.title = text + " - ollama-openai-proxy";
}

// Two texts of a cell: `value` is the first one, or [text, smaller text below it, tone].
const texts = () => [document.createTextNode(""), make("small")];
function fill(cell, value, kind = "") {
  const [text, more, tone = ""] = [].concat(value), name = (kind + " " + tone).trim();
  setText(cell.firstChild, String(text ?? "-"));
  setText(cell.lastChild, more ?? "");
  set(cell, "class", name);
}

// Columns are [heading, value of a row, kind]; these take a member of the row.
const plain = (title, name, kind) => [title, (row) => row[name], kind];
const number = (title, name, show = format) => [title, (row) => show(row[name]), "n"];

// Rows keep their elements as long as their id is there.
function table(name, columns, rows, idOf, none) {
  const element = $(name);
  if (element.tHead?.rows[0].cells.length !== columns.length) {
    while (element.lastChild !== element.caption) element.lastChild.remove();
    element.append(make("thead", {}, make("tr", {}, ...columns.map(([title, , kind]) =>
      make("th", { scope: "col", class: kind === "n" ? kind : "" }, title)))), make("tbody"));
  }
  const body = element.tBodies[0], wanted = new Map(), old = new Map();
  if (!rows.length) {
    if (body.textContent !== none) body.replaceChildren(make("tr", {}, make("td", { class: "none", colspan: columns.length }, none)));
    return;
  }
  for (const row of rows) {
    let id = idOf(row);
    while (wanted.has(id)) id += "+";
    wanted.set(id, row);
  }
  for (const tr of [...body.rows]) if (wanted.has(tr.dataset.id)) old.set(tr.dataset.id, tr); else tr.remove();
  let next = body.firstChild;
  for (const [id, row] of wanted) {
    const tr = old.get(id) ?? make("tr", { "data-id": id }, ...columns.map((_, i) =>
      make(i ? "td" : "th", i ? {} : { scope: "row" }, ...texts())));
    columns.forEach(([, value, kind], i) => fill(tr.cells[i], value(row), kind));
    if (tr === next) next = next.nextSibling; else body.insertBefore(tr, next);
  }
}

function tile(place, title, value, more) {
  const list = $("figures");
  if (!list.children[place]) list.append(make("div", {}, make("dt", {}, title), make("dd", {}, ...texts())));
  fill(list.children[place].lastChild, [value, more]);
}

function newChart(title) {
  const bars = Array.from({ length: 60 }, (_, x) => make("g", {}, make("title"),
    make("rect", { class: "hit", x, width: 1, height: 20 }), make("rect", { class: "bar", x: x + .1, width: .8 })));
  return make("figure", {}, make("figcaption", {}, make("b", {}, title), make("span")),
    make("svg", { viewBox: "0 0 60 20", preserveAspectRatio: "none", role: "img" }, ...bars));
}

function chart(place, title, name, show, isSum) {
  const figure = $("charts").children[place] ?? $("charts").appendChild(newChart(title));
  const values = last.minutes.map((m) => m[name]), known = values.filter((x) => x != null), most = Math.max(0, ...known);
  const told = most ? show(isSum ? known.reduce((a, b) => a + b) : known.at(-1)) + ", at most " + show(most) : "none";
  setText(figure.firstChild.lastChild, told);
  set(figure.lastChild, "aria-label", title + ": " + told);
  [...figure.lastChild.children].forEach((bar, i) => {
    const x = values[i + values.length - 60], height = most ? 20 * (x ?? 0) / most : 0;
    setText(bar.firstChild, 59 - i + " min ago: " + show(x));
    set(bar.lastChild, "height", height);
    set(bar.lastChild, "y", 20 - height);
  });
}

// Options of a select or datalist. The selected one stays, even if it is gone; "" and "!" are of the page.
function options(list, values) {
  const wanted = new Set(values), there = new Set();
  for (const option of [...list.options]) {
    if (option.value > "!" && option.value !== list.value && !wanted.has(option.value)) option.remove();
    else there.add(option.value);
  }
  for (const value of wanted) {
    if (!there.has(value)) list.insertBefore(new Option(value, value), [...list.options].find((o) => o.value > value) ?? null);
  }
}

function showRecent() {
  const { model, upstream, status, id } = $("filter").elements, part = id.value.trim().toLowerCase(), all = last.recent;
  const isFailed = (r) => r.status >= 400 || r.error != null;
  const rows = all.filter((r) => (!model.value || r.model === model.value) &&
    (!upstream.value || r.upstream === upstream.value) && r.id.toLowerCase().includes(part) &&
    (!status.value || (status.value === "!" ? isFailed(r) : String(r.status) === status.value)));
  setText($("recent-note"), rows.length === all.length ? "" : format(rows.length) + " of " + format(all.length) + " shown");
  table("recent", [["Time", (r) => clock(r.time), "n"], ["Model", (r) => [r.model, r.route]],
    ["Upstream", (r) => [r.upstream, r.attempts > 1 ? format(r.attempts) + " attempts" : ""]],
    ["Status", (r) => [r.status, r.error, r.status >= 500 ? "bad" : isFailed(r) ? "warn" : "good"]],
    number("First token", "first_token_ms", millis), number("Duration", "duration_ms", millis), number("In", "tokens_in"),
    number("Out", "tokens_out"), ...(last.keys.length ? [plain("Key", "key")] : []), plain("Request id", "id", "code")],
  rows, (r) => r.id + " " + r.time, all.length ? "No request matches." : "No request yet.");
}

const isWell = (u) => u.circuit === "closed" && u.state === "ok";

function showState(s) {
  const bad = s.upstreams.filter((u) => !isWell(u)), all = s.upstreams.length;
  if (!bad.length) return say(all === 1 ? "The upstream answers" : "All " + format(all) + " upstreams answer", "good");
  const names = bad.slice(0, 3).map((u) => u.name).join(", ") + (bad.length > 3 ? " ..." : "");
  say((all === 1 ? "The upstream" : format(bad.length) + " of " + format(all) + " upstreams") + (bad.length === 1 ? " is" : " are") + " in trouble: " + names,
    bad.length === all ? "bad" : "warn");
}

function showNow(s) {
  const hidden = s.live_total - s.live.length;
  tile(0, "Answers in progress", format(s.live_total), hidden > 0 ? format(s.live.length) + " shown" : "");
  tile(1, "Busy workers", format(s.workers.busy), limit(s.workers.limit));
  tile(2, "Waiting requests", format(s.queue));
  tile(3, "Connections", format(s.connections));
  tile(4, "Held for requests", bytes(s.memory.held), s.memory.limit == null ? "" : "of " + bytes(s.memory.limit));
  tile(5, "Memory of the process", bytes(s.memory.resident));
  tile(6, "Running for", age(s.uptime_s));
  table("live", [["Model", (r) => [r.model, r.route]], plain("Upstream", "upstream"), number("Since", "seconds", age),
    number("Tokens", "tokens"), ["Tokens/s", (r) => decimal(r.tokens && r.seconds > 0 ? r.tokens / r.seconds : null), "n"],
    plain("Request id", "id", "code")], s.live, (r) => r.id, "No answer is in progress.");
  chart(0, "Requests", "requests", format, true);
  chart(1, "Errors", "errors", format, true);
  chart(2, "First token", "first_token_ms", millis);
  chart(3, "Tokens/s", "tokens_per_second", decimal);
}

function showLists(s) {
  table("upstreams", [["Name", (u) => [u.name, u.base_url]],
    ["State", (u) => [u.state, u.circuit === "closed" ? "" : "circuit " + u.circuit.replace("_", " "),
      isWell(u) ? "good" : u.circuit === "open" ? "bad" : "warn"], "dot"],
    number("Latency", "latency_ms", millis), number("In flight", "in_flight"), number("Models", "models"),
    ["List", (u) => [age(u.list_age_s), u.list_stale ? "outdated" : "", u.list_stale ? "warn" : ""], "n"],
    ["Last error", (u) => [u.last_error, u.last_error_age_s == null ? "" : age(u.last_error_age_s) + " ago"]]],
  s.upstreams, (u) => u.name, "No upstream.");
  setText($("models-note"), (s.models_total > s.models.length ? format(s.models.length) + " of " : "") + format(s.models_total));
  table("models", [["Name", (m) => [m.name, m.capabilities.join(", ")]], ["Goes to", (m) => [m.upstream, m.target]],
    number("Window", "context_length")], s.models, (m) => m.name, "No model is listed.");
  $("keys-section").toggleAttribute("hidden", !s.keys.length);
  table("keys", [["Name", (k) => [k.name, k.models.join(", ")]], number("Requests", "requests"), number("Refused", "refused"),
    number("Tokens in", "tokens_in"), number("Tokens out", "tokens_out"),
    ["Tokens today", (k) => [format(k.tokens_today), limit(k.tokens_per_day)], "n"],
    ["In flight", (k) => [format(k.in_flight), limit(k.max_parallel)], "n"],
    number("Limit a minute", "requests_per_minute")], s.keys, (k) => k.name, "None.");
  table("repairs", [plain("Upstream", "upstream"), plain("Model", "model"), ["Change", (r) => [r.repair, r.reason]],
    number("Known for", "age_s", age)], s.repairs, (r) => [r.upstream, r.model, r.repair].join(" "), "No request had to be changed.");
  table("config", [plain("Name", "name", "code"), plain("Value", "value", "code")], s.config, (c) => c.name, "All defaults.");
}

function show(s) {
  last = s;
  setText($("version"), s.version);
  setText($("updated"), "Updated " + new Date().toLocaleTimeString());
  showState(s);
  showNow(s);
  showLists(s);
  options($("names"), s.models.map((m) => m.name));
  if (s.models.length === 1) $("try-model").value ||= s.models[0].name;
  for (const name of ["model", "upstream", "status"]) {
    options($("filter").elements[name], s.recent.map((r) => r[name]).filter((x) => x != null).map(String));
  }
  showRecent();
}

// What a refusal says, in words, and the milliseconds of its Retry-After.
async function refusal(answer) {
  let told = "";
  try { const { error } = JSON.parse(await answer.text()); told = ": " + (error.message ?? error); } catch { /* No words in JSON. */ }
  const words = { 401: "The key is not accepted", 403: "Not allowed", 429: "Too many requests" }[answer.status]
    ?? "The server answers with status " + answer.status;
  const seconds = Number(answer.headers.get("Retry-After")) || 0;
  return [words + told + (seconds ? ". Try again at " + clock(Date.now() / 1000 + seconds) : ""), seconds * 1000];
}

// Shows the form for the key instead of the data.
function ask(text, isWrong) {
  delete store[KEY];
  last = null;
  chat?.abort();
  $("all").hidden = $("forget").hidden = true;
  $("login").hidden = false;
  setText($("updated"), "");
  $("key").setAttribute("aria-invalid", isWrong);
  $("key").focus();
  say(text, isWrong ? "bad" : "warn");
}

async function refused(answer) {
  const [text, retry] = await refusal(answer), needsKey = answer.status === 401, mayHelp = !last && [403, 429].includes(answer.status);
  if (needsKey && !store[KEY]) ask("A key is needed", false);
  else if (needsKey || (store[KEY] && mayHelp)) ask(text, true);
  else say(text, "bad");
  return retry;
}

async function load() {
  clearTimeout(timer);
  request?.abort();
  request = null;
  if (document.hidden || !$("login").hidden) return;
  const mine = request = new AbortController(), signal = AbortSignal.any([mine.signal, AbortSignal.timeout(PATIENCE)]);
  let retry = 0;
  pause = Math.min(pause * 2, LONGEST_PAUSE);
  try {
    const answer = await fetch("status.json", { headers: headers(), cache: "no-store", signal });
    if (answer.ok) {
      const status = await answer.json();
      show(status);
      $("all").hidden = false;
      $("forget").hidden = !store[KEY];
      pause = PAUSE;
    } else {
      retry = await refused(answer);
    }
  } catch {
    if (request !== mine) return;
    say("The server does not answer. Trying again.", "bad");
  }
  timer = setTimeout(load, Math.max(pause, retry));
}

// Passes the lines of an answer on as they arrive; gives the last one.
async function readLines(answer, onLine) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", line = {};
  for (let piece; !(piece = await reader.read()).done;) {
    const lines = (rest + piece.value).split("\n");
    rest = lines.pop();
    for (const text of lines) if (text) onLine(line = JSON.parse(text));
  }
  return line;
}

function showPiece({ message }) {
  if (message?.thinking) $("thought").hidden = false;
  $("thinking").firstChild.appendData(message?.thinking ?? "");
  $("answer").firstChild.appendData(message?.content ?? "");
}

async function converse(signal) {
  const messages = [{ role: "user", content: $("try-text").value }];
  const answer = await fetch("api/chat", { method: "POST", signal, headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify({ model: $("try-model").value.trim(), messages }) });
  if (!answer.ok) return (await refusal(answer))[0];
  setText($("try-state"), "Answering");
  const end = await readLines(answer, showPiece);
  if (end.error) return "Error: " + end.error;
  if (!end.done) return "The answer broke off";
  const speed = end.eval_count ? ": " + format(end.eval_count) + " tokens in " + millis(end.total_duration / 1e6) : "";
  return (end.done_reason === "length" ? "Cut at the token limit" : "Complete") + speed;
}

async function send(event) {
  event.preventDefault();
  if (chat) return;
  const { signal } = chat = new AbortController();
  for (const name of ["thinking", "answer"]) $(name).replaceChildren(document.createTextNode(""));
  $("thought").hidden = true;
  $("send").setAttribute("aria-disabled", true);
  $("stop").hidden = false;
  setText($("try-state"), "Waiting");
  const end = await converse(signal).catch(() => signal.aborted ? "Stopped" : "The connection to the server was lost");
  setText($("try-state"), end);
  if (document.activeElement === $("stop")) $("send").focus();
  $("send").removeAttribute("aria-disabled");
  $("stop").hidden = true;
  chat = null;
}

for (const element of document.querySelectorAll("table")) {
  const box = make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": element.caption.textContent });
  element.replaceWith(box);
  box.append(element);
}
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = $("key").value.trim();
  $("key").value = "";
  // What no header can hold is no key.
  if (!/^[!-~]+$/.test(typed)) return ask("The key is not accepted", true);
  store[KEY] = typed;
  $("login").hidden = true;
  load();
});
$("forget").addEventListener("click", () => { delete store[KEY]; location.reload(); });
$("try").addEventListener("submit", send);
$("try-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("try").requestSubmit();
});
$("stop").addEventListener("click", () => chat?.abort());
$("filter").addEventListener("input", showRecent);
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("reset", () => setTimeout(showRecent));
document.addEventListener("visibilitychange", load);
addEventListener("online", load);
load();
