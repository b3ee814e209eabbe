// The official JavaScript client against the proxy, with the scripted upstream behind it.
// tests/clients/run.py sets their addresses, PROXY_URL and UPSTREAM_URL.
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ollama } from "ollama";
import { check, checkRules, failure, forget, journal, run, setting } from "./checks.mjs";

const PROXY = setting("PROXY_URL");
const MODEL = "scripted-1";
const EMBED_MODEL = "scripted-embed";
const NAMES = ["scripted-1:latest", "scripted-embed:latest", "team/other:8b"];
const COUNTERS = [
  "total_duration",
  "load_duration",
  "prompt_eval_count",
  "prompt_eval_duration",
  "eval_count",
  "eval_duration",
];

const client = new Ollama({ host: PROXY });
const warnings = [];

// The client reports lines that are not JSON as warnings.
console.warn = (...parts) => warnings.push(parts.join(" "));

const user = (content) => [{ role: "user", content }];

async function say(content, more = {}) {
  const answer = await client.chat({ model: MODEL, messages: user(content), ...more });
  return answer.message.content;
}

async function collect(stream) {
  const lines = [];
  for await (const line of stream) lines.push(line);
  return lines;
}

async function running() {
  return (await client.ps()).models.map((model) => model.model);
}

function checkFinal(answer) {
  assert.equal(answer.done, true);
  assert.equal(answer.model, MODEL);
  for (const name of COUNTERS) assert.ok(answer[name] >= 1, `${name} is ${answer[name]}`);
  assert.ok(!Number.isNaN(Date.parse(answer.created_at)), answer.created_at);
}

function checkLines(lines, textOf, expected) {
  assert.ok(lines.length > 1, "a single line");
  lines.forEach((line, index) => assert.equal(line.done, index === lines.length - 1));
  assert.equal(lines.map(textOf).join(""), expected);
  checkFinal(lines.at(-1));
}

const chatText = (line) => line.message.content;
const generateText = (line) => line.response;

function checkUnit(values, length) {
  assert.equal(values.length, length);
  const square = values.reduce((sum, value) => sum + value * value, 0);
  assert.ok(Math.abs(square - 1) < 1e-4, `length squared is ${square}`);
}

// --- Listing and information ---

check("list names every model with a tag", async () => {
  const { models } = await client.list();
  assert.deepEqual(models.map((model) => model.name).sort(), NAMES);
  for (const model of models) {
    assert.equal(model.model, model.name);
    assert.match(model.digest, /^[0-9a-f]{64}$/);
    assert.ok(Number.isInteger(model.size));
    assert.ok(!Number.isNaN(Date.parse(model.modified_at)), model.modified_at);
    assert.equal(typeof model.details.family, "string");
  }
});

check("version is three numbers", async () => {
  assert.match((await client.version()).version, /^\d+\.\d+\.\d+$/);
});

check("show tells capabilities and architecture", async () => {
  const shown = await client.show({ model: MODEL });
  assert.ok(shown.capabilities.includes("completion"));
  assert.equal(typeof shown.model_info["general.architecture"], "string");
  assert.ok((await client.show({ model: EMBED_MODEL })).capabilities.includes("embedding"));
});

check("show of an unknown model is 404", async () => {
  const error = await failure(client.show({ model: "nope" }));
  assert.equal(error.status_code, 404);
  assert.equal(error.message, "model 'nope:latest' not found");
});

check("load and unload show in ps", async () => {
  const loaded = await client.generate({ model: MODEL, prompt: "", keep_alive: "10m" });
  assert.deepEqual([loaded.done, loaded.done_reason, loaded.response], [true, "load", ""]);
  assert.ok((await running()).includes("scripted-1:latest"));
  const unloaded = await client.chat({ model: MODEL, messages: [], keep_alive: 0 });
  assert.deepEqual([unloaded.done, unloaded.done_reason], [true, "unload"]);
  assert.ok(!(await running()).includes("scripted-1:latest"));
});

check("a streamed load is one line", async () => {
  const lines = await collect(await client.generate({ model: MODEL, prompt: "", stream: true }));
  assert.deepEqual(lines.map((line) => line.done_reason), ["load"]);
});

// --- Chat ---

check("chat whole", async () => {
  const answer = await client.chat({ model: MODEL, messages: user("Hello there") });
  assert.deepEqual(answer.message, { role: "assistant", content: "You said: Hello there" });
  assert.equal(answer.done_reason, "stop");
  checkFinal(answer);
  assert.deepEqual([answer.prompt_eval_count, answer.eval_count], [2, 4]);
});

check("chat stream", async () => {
  const messages = user("echo: one two three");
  const lines = await collect(await client.chat({ model: MODEL, messages, stream: true }));
  checkLines(lines, chatText, "one two three");
  assert.equal(lines.length, 4);
});

check("chat sends the whole history", async () => {
  const messages = [
    { role: "system", content: "Be brief." },
    { role: "user", content: "One" },
    { role: "assistant", content: "Two" },
    { role: "user", content: "messages?" },
  ];
  const answer = await client.chat({ model: MODEL, messages });
  const expected = messages.map((message) => [message.role, message.content]);
  assert.deepEqual(JSON.parse(answer.message.content), expected);
});

check("chat forwards options", async () => {
  const options = { temperature: 0.5, top_p: 0.25, seed: 0, stop: ["END"], num_ctx: 2048 };
  const sent = JSON.parse(await say("params?", { options }));
  assert.deepEqual(sent, { temperature: 0.5, top_p: 0.25, seed: 0, stop: ["END"] });
});

check("num_predict gives done_reason length", async () => {
  const request = { model: MODEL, messages: user("echo: a b c d"), options: { num_predict: 2 } };
  const answer = await client.chat(request);
  assert.deepEqual([answer.message.content, answer.done_reason], ["a b", "length"]);
});

check("odd characters survive a stream", async () => {
  const odd = 'h\u00e9llo \u4f60\u597d \u{1f600} a\u2028b c\u2029d e\u0085f <b>&amp; \\ " tab\t.';
  const messages = user(`echo: ${odd}`);
  const lines = await collect(await client.chat({ model: MODEL, messages, stream: true }));
  checkLines(lines, chatText, odd);
});

check("format json and schema", async () => {
  assert.deepEqual(JSON.parse(await say("JSON, please.", { format: "json" })), { ok: true });
  const properties = { name: { type: "string" }, age: { type: "integer" } };
  const format = { type: "object", properties, required: ["name", "age"] };
  assert.deepEqual(JSON.parse(await say("Who?", { format })), { name: "text", age: 7 });
});

check("an unknown format is 500", async () => {
  const request = { model: MODEL, messages: user("Hello"), format: "xml", stream: true };
  const error = await failure(client.chat(request));
  assert.equal(error.status_code, 500);
  assert.match(error.message, /^invalid format: /);
});

// --- Generate ---

check("generate whole and stream", async () => {
  const answer = await client.generate({ model: MODEL, prompt: "Hello" });
  assert.deepEqual([answer.response, answer.done_reason], ["You said: Hello", "stop"]);
  checkFinal(answer);
  assert.ok(answer.context.length > 0 && answer.context.every(Number.isInteger));
  const request = { model: MODEL, prompt: "echo: one two three", stream: true };
  checkLines(await collect(await client.generate(request)), generateText, "one two three");
});

check("generate sends the system prompt", async () => {
  const request = { model: MODEL, prompt: "system?", system: "Be brief." };
  assert.equal((await client.generate(request)).response, "Be brief.");
});

// --- Embeddings ---

check("embed one and many", async () => {
  const one = await client.embed({ model: EMBED_MODEL, input: "Hello there" });
  checkUnit(one.embeddings[0], 8);
  assert.equal(one.prompt_eval_count, 2);
  const input = ["a", "b", "Hello there"];
  const many = await client.embed({ model: EMBED_MODEL, input });
  assert.equal(many.embeddings.length, 3);
  assert.deepEqual(many.embeddings[2], one.embeddings[0]);
  const short = await client.embed({ model: EMBED_MODEL, input: "a", dimensions: 4 });
  checkUnit(short.embeddings[0], 4);
});

check("embed of nothing is nothing", async () => {
  assert.deepEqual((await client.embed({ model: EMBED_MODEL, input: [] })).embeddings, []);
});

check("embeddings gives one vector", async () => {
  const { embedding } = await client.embeddings({ model: EMBED_MODEL, prompt: "Hello" });
  assert.equal(embedding.length, 8);
});

// --- Tools ---

const STYLES = ["", ":whole", ":noindex", ":object", ":mixed"];
const number = { type: "integer" };
const parameters = { type: "object", properties: { a: number, b: number }, required: ["a", "b"] };
const tools = [{ type: "function", function: { name: "add", description: "Add.", parameters } }];
const results = (message) =>
  message.tool_calls.map(({ function: { name, arguments: { a, b } } }) => ({
    role: "tool",
    tool_name: name,
    content: String(a + b),
  }));

check("a call arrives whole and its result finds it", async () => {
  for (const style of STYLES) {
    const messages = user(`call${style} add {"a": 1, "b": 2}`);
    const { message, done_reason } = await client.chat({ model: MODEL, messages, tools });
    assert.deepEqual(message.tool_calls[0].function.arguments, { a: 1, b: 2 }, style);
    assert.equal(done_reason, "stop");
    messages.push(message, ...results(message));
    const answer = await client.chat({ model: MODEL, messages, tools });
    assert.equal(answer.message.content, 'add({"a": 1, "b": 2}) = 3', style);
  }
});

check("a stream tells calls in lines of their own", async () => {
  for (const style of STYLES) {
    const messages = user(`calls${style} 3`);
    const lines = await collect(
      await client.chat({ model: MODEL, messages, tools, stream: true }),
    );
    const calling = lines.filter((line) => line.message.tool_calls);
    assert.ok(calling.length > 0 && calling.every((line) => !line.done), style);
    const tool_calls = calling.flatMap((line) => line.message.tool_calls);
    assert.deepEqual(tool_calls.map((call) => call.function.index), [0, 1, 2], style);
    const message = { role: "assistant", content: "", tool_calls };
    checkFinal(lines.at(-1));
    messages.push(message, ...results(message));
    const text = chatText(await client.chat({ model: MODEL, messages, tools }));
    const values = text.split("; ").map((part) => part.split(" = ")[1]);
    assert.deepEqual(values, ["0", "2", "4"], style);
  }
});

// --- Thinking, images, logprobs ---

check("thinking is told apart", async () => {
  for (const style of ["", ":short", ":inline"]) {
    const messages = user(`think${style} a b`);
    for (const think of [true, "medium", undefined]) {
      const { message } = await client.chat({ model: MODEL, messages, think });
      assert.equal(message.content, "a b", style);
      assert.equal(message.thinking.trim(), "Let me think about it.", style);
    }
    const { message } = await client.chat({ model: MODEL, messages, think: false });
    assert.deepEqual([message.content, message.thinking], ["a b", undefined], style);
    const request = { model: MODEL, messages, think: true, stream: true };
    const lines = await collect(await client.chat(request));
    checkLines(lines, chatText, "a b");
    const thought = lines.map((line) => line.message.thinking ?? "").join("");
    assert.equal(thought.trim(), "Let me think about it.", style);
  }
});

check("images as bytes and as a path", async () => {
  const png = Uint8Array.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13]);
  const jpeg = Uint8Array.from([0xff, 0xd8, 0xff, 0xe0, 0, 16, 0x4a, 0x46, 0x49, 0x46, 0, 1]);
  const folder = await mkdtemp(join(tmpdir(), "images-"));
  try {
    const path = join(folder, "picture.jpg");
    await writeFile(path, jpeg);
    const messages = [{ role: "user", content: "images?", images: [png, path] }];
    const { message } = await client.chat({ model: MODEL, messages });
    assert.deepEqual(JSON.parse(message.content), ["image/png", "image/jpeg"]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

check("logprobs whole and streamed", async () => {
  const messages = user("echo: one two");
  const request = { model: MODEL, messages, logprobs: true, top_logprobs: 2 };
  const { logprobs } = await client.chat(request);
  const lines = await collect(await client.chat({ ...request, stream: true }));
  for (const items of [logprobs, lines.flatMap((line) => line.logprobs ?? [])]) {
    assert.deepEqual(items.map((item) => item.token), ["one", " two"]);
    assert.ok(items.every((item) => item.logprob <= 0 && item.top_logprobs.length === 2));
  }
});

// --- Created models ---

check("create, copy, delete and pull", async () => {
  const made = await client.create({ model: "peach", from: MODEL, system: "You are Peach." });
  assert.equal(made.status, "success");
  const messages = user("system?");
  assert.equal(chatText(await client.chat({ model: "peach", messages })), "You are Peach.");
  assert.equal((await client.copy({ source: "peach", destination: "daisy" })).status, "success");
  assert.equal(chatText(await client.chat({ model: "daisy", messages })), "You are Peach.");
  for (const model of ["peach", "daisy"]) {
    assert.equal((await client.delete({ model })).status, "success");
    assert.equal((await failure(client.show({ model }))).status_code, 404);
  }
  assert.equal((await failure(client.delete({ model: MODEL }))).status_code, 403);
  assert.equal((await client.pull({ model: MODEL })).status, "success");
  const lines = await collect(await client.pull({ model: MODEL, stream: true }));
  assert.equal(lines.at(-1).status, "success");
  const wanted = /file does not exist/;
  assert.match((await failure(client.pull({ model: "nope" }))).message, wanted);
});

// --- Errors ---

check("an unknown model is 404", async () => {
  for (const stream of [false, true]) {
    const request = { model: "nope", messages: user("Hello"), stream };
    const error = await failure(client.chat(request));
    assert.equal(error.status_code, 404);
    assert.equal(error.message, "model 'nope' not found");
  }
});

check("a missing model name is 400 for chat and 404 for generate", async () => {
  let error = await failure(client.chat({ model: "", messages: user("Hello") }));
  assert.deepEqual([error.status_code, error.message], [400, "model is required"]);
  error = await failure(client.generate({ model: "", prompt: "Hello" }));
  assert.deepEqual([error.status_code, error.message], [404, "model '' not found"]);
});

check("upstream 429 and 400 pass through", async () => {
  for (const stream of [false, true]) {
    let request = { model: MODEL, messages: user("error 429"), stream };
    let error = await failure(client.chat(request));
    assert.equal(error.status_code, 429);
    assert.equal(error.message, "Rate limit reached for scripted-1.");
    request = { model: MODEL, prompt: "error 400", stream };
    error = await failure(client.generate(request));
    assert.equal(error.status_code, 400);
    assert.equal(error.message, "The request was refused on purpose.");
  }
});

check("a broken stream is an error after the text", async () => {
  for (const command of ["break mid", "fail mid"]) {
    const messages = user(command);
    const stream = await client.chat({ model: MODEL, messages, stream: true });
    let text = "";
    const error = await failure(
      (async () => {
        for await (const line of stream) text += line.message.content;
      })(),
    );
    assert.equal(text, "Half an");
    assert.doesNotMatch(error.message, /Did not receive done/);
    if (command === "fail mid") assert.match(error.message, /The model gave up\./);
  }
});

// --- Disconnects ---

check("abort ends the stream and leaves the server fine", async () => {
  await forget();
  const messages = user("slow 500 left");
  const stream = await client.chat({ model: MODEL, messages, stream: true });
  let lines = 0;
  const error = await failure(
    (async () => {
      for await (const line of stream) {
        assert.equal(line.done, false);
        lines += 1;
        if (lines === 2) stream.abort();
      }
    })(),
  );
  assert.equal(error.name, "AbortError");
  assert.equal(await say("echo: still here"), "still here");
  const isSlow = (entry) => JSON.stringify(entry.body).includes("slow");
  let states = [];
  for (let tries = 0; tries < 100; tries += 1) {
    states = (await journal()).filter(isSlow).map((entry) => entry.state);
    if (states[0] === "aborted") break;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.deepEqual(states, ["aborted"]);
});

check("abort of the client ends all its streams", async () => {
  const own = new Ollama({ host: PROXY });
  const starts = ["x", "y", "z"].map((word) =>
    own.chat({ model: MODEL, messages: user(`slow 500 ${word}`), stream: true }),
  );
  const streams = await Promise.all(starts);
  const ends = streams.map((stream) => failure(collect(stream)));
  own.abort();
  for (const error of await Promise.all(ends)) assert.equal(error.name, "AbortError");
  assert.equal(await say("echo: still here"), "still here");
});

check("twenty streams at once keep their texts", async () => {
  const one = async (number) => {
    const messages = user(`slow 25 s${number}-`);
    const lines = await collect(await client.chat({ model: MODEL, messages, stream: true }));
    const words = Array.from({ length: 25 }, (_, index) => `s${number}-${index}`);
    checkLines(lines, chatText, words.join(" "));
  };
  await Promise.all(Array.from({ length: 20 }, (_, number) => one(number)));
});

// --- Upstream requests ---

check("every line was JSON", () => assert.deepEqual(warnings, []));

check("every request obeyed the rules of the upstream", checkRules);

await run();
