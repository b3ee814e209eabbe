// OpenAI's own JavaScript client against the proxy's /v1, with the scripted upstream behind it.
// tests/clients/run.py sets their addresses, PROXY_URL and UPSTREAM_URL.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { check, checkRules, failure, forget, journal, run, setting } from "./checks.mjs";

const PROXY = setting("PROXY_URL");
const MODEL = "scripted-1";
const EMBED_MODEL = "scripted-embed";
// The id of every response of the scripted upstream.
const UPSTREAM_ID = "req_scripted";
const Person = z.object({ name: z.string(), age: z.number().int() });
const number = { type: "integer" };
const parameters = {
  type: "object",
  properties: { a: number, b: number },
  required: ["a", "b"],
  additionalProperties: false,
};
const FUNCTION = { name: "add", description: "Add two numbers.", parameters, strict: true };
const TOOLS = [{ type: "function", function: FUNCTION }];
const FLAT_TOOLS = [{ type: "function", ...FUNCTION }];
const PIXEL = "data:image/png;base64,iVBORw0KGgo=";

const client = new OpenAI({ baseURL: `${PROXY}/v1`, apiKey: "theirs", maxRetries: 0 });

const user = (content) => [{ role: "user", content }];

// The scripted upstream requires `stream`, and the proxy passes the client's value through.
const asked = (content, more = {}) => ({
  model: MODEL,
  messages: Array.isArray(content) ? content : user(content),
  stream: false,
  ...more,
});

const chat = (content, more) => client.chat.completions.create(asked(content, more));
const respond = (input, more) => client.responses.create({ model: MODEL, input, ...more });
const textOf = (answer) => answer.choices[0].message.content;

async function collect(stream) {
  const items = [];
  for await (const item of await stream) items.push(item);
  return items;
}

// The bodies that went upstream since `forget`.
async function sent() {
  return (await journal()).map((entry) => entry.body).filter(Boolean);
}

// --- Models ---

check("models.list walks over the upstream's ids", async () => {
  const models = await collect(client.models.list());
  assert.deepEqual(models.map((model) => model.id).sort(), [MODEL, EMBED_MODEL, "team/other:8b"]);
  for (const model of models) {
    assert.equal(model.object, "model");
    assert.ok(Number.isInteger(model.created), model.created);
  }
});

check("models.retrieve finds a name, also one with a slash", async () => {
  for (const id of [MODEL, "team/other:8b"]) {
    const model = await client.models.retrieve(id);
    assert.deepEqual([model.id, model.object, model.owned_by], [id, "model", "scripted"]);
  }
});

check("models.retrieve of an unknown model is a NotFoundError", async () => {
  const error = await failure(client.models.retrieve("nope"));
  assert.ok(error instanceof OpenAI.NotFoundError, error);
  assert.deepEqual([error.status, error.type, error.code], [404, "not_found_error", null]);
  assert.match(error.message, /model 'nope:latest' not found/);
});

// --- Chat ---

check("a whole answer with usage, by either name", async () => {
  for (const model of [MODEL, `${MODEL}:latest`]) {
    const answer = await chat("Hello there", { model });
    assert.equal(textOf(answer), "You said: Hello there");
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.deepEqual(answer.usage, { prompt_tokens: 2, completion_tokens: 4, total_tokens: 6 });
    assert.equal((await sent()).at(-1).model, MODEL);
  }
});

check("a stream comes in the upstream's pieces, with usage last", async () => {
  const more = { stream: true, stream_options: { include_usage: true } };
  const chunks = await collect(chat("slow 4 x", more));
  const texts = chunks.map((chunk) => chunk.choices[0]?.delta.content).filter(Boolean);
  assert.deepEqual(texts, ["x0", " x1", " x2", " x3"]);
  assert.deepEqual([chunks.at(-1).choices, chunks.at(-1).usage.completion_tokens], [[], 4]);
  const plain = await collect(chat("echo: Hi", { stream: true }));
  assert.ok(plain.every((chunk) => !("usage" in chunk)), "usage that nobody asked for");
});

check("the stream helper gathers the same answer", async () => {
  const stream = client.chat.completions.stream(asked("echo: one two", { stream: true }));
  const deltas = [];
  stream.on("content", (delta) => deltas.push(delta));
  assert.equal(await stream.finalContent(), "one two");
  assert.deepEqual(deltas.filter(Boolean), ["one", " two"]);
});

check("thoughts of the upstream stay where it puts them", async () => {
  const { message } = (await chat("think yes")).choices[0];
  assert.deepEqual([message.content, message.reasoning_content], ["yes", "Let me think about it."]);
});

check("sampling parameters and system prompts arrive", async () => {
  const more = { temperature: 0, top_p: 0.9, seed: 0, stop: ["END"], max_completion_tokens: 50 };
  assert.deepEqual(JSON.parse(textOf(await chat("params?", more))), more);
  const messages = [{ role: "developer", content: "Be kind." }, ...user("messages?")];
  const wanted = [["developer", "Be kind."], ["user", "messages?"]];
  assert.deepEqual(JSON.parse(textOf(await chat(messages))), wanted);
});

check("images in parts arrive", async () => {
  const image = { type: "image_url", image_url: { url: PIXEL } };
  const answer = await chat(user([{ type: "text", text: "images?" }, image]));
  assert.deepEqual(JSON.parse(textOf(answer)), ["image/png"]);
});

check("a tool goes round, whole and streamed", async () => {
  for (const stream of [false, true]) {
    const messages = user('call add {"a": 1, "b": 2}');
    const request = asked(messages, { tools: TOOLS, tool_choice: "auto", stream });
    const answer = stream
      ? await client.chat.completions.stream(request).finalChatCompletion()
      : await client.chat.completions.create(request);
    const [{ message, finish_reason }] = answer.choices;
    assert.equal(finish_reason, "tool_calls");
    const [{ id, type, function: called }] = message.tool_calls;
    assert.deepEqual([called.name, JSON.parse(called.arguments)], ["add", { a: 1, b: 2 }]);
    const { name, arguments: given } = called;
    const tool_calls = [{ id, type, function: { name, arguments: given } }];
    messages.push({ role: "assistant", tool_calls });
    messages.push({ role: "tool", tool_call_id: id, content: "3" });
    const text = textOf(await chat(messages, { tools: TOOLS }));
    assert.equal(text, 'add({"a": 1, "b": 2}) = 3');
  }
});

check("an answer is parsed by its schema", async () => {
  const response_format = zodResponseFormat(Person, "person");
  const answer = await client.chat.completions.parse(asked("Who?", { response_format }));
  assert.deepEqual(answer.choices[0].message.parsed, { name: "text", age: 7 });
});

check("leaving a stream ends it at the upstream", async () => {
  await forget();
  const stream = await chat("slow 500 left", { stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  assert.equal(textOf(await chat("echo: still here")), "still here");
  const isSlow = (entry) => JSON.stringify(entry.body).includes("slow");
  let states = [];
  for (let tries = 0; tries < 100; tries += 1) {
    states = (await journal()).filter(isSlow).map((entry) => entry.state);
    if (states[0] === "aborted") break;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.deepEqual(states, ["aborted"]);
});

// --- Completions and embeddings ---

check("completions whole and streamed", async () => {
  const request = { model: MODEL, prompt: "echo: one two", stream: false };
  const answer = await client.completions.create(request);
  assert.deepEqual([answer.object, answer.choices[0].text], ["text_completion", "one two"]);
  const chunks = await collect(client.completions.create({ ...request, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), "one two");
});

check("embeddings of many texts", async () => {
  const request = { model: EMBED_MODEL, input: ["a", "b c"], encoding_format: "float" };
  const answer = await client.embeddings.create(request);
  const data = answer.data.sort((one, other) => one.index - other.index);
  assert.deepEqual(data.map((item) => item.index), [0, 1]);
  assert.ok(data.every((item) => item.embedding.length === 8), data);
  assert.equal(answer.usage.prompt_tokens, 3);
  // The format may be missing: after an earlier client's request the proxy knows that this upstream
  // accepts no other.
  const { encoding_format: format = "float", ...rest } = (await sent()).at(-1);
  assert.deepEqual({ ...rest, encoding_format: format }, request);
});

// --- Responses ---

check("a response whole, with its instructions", async () => {
  const answer = await respond("Hello there");
  assert.equal(answer.output_text, "You said: Hello there");
  assert.deepEqual([answer.object, answer.status, answer.model], ["response", "completed", MODEL]);
  assert.deepEqual([answer.usage.input_tokens, answer.usage.output_tokens], [2, 4]);
  const told = await respond("system?", { instructions: "Be brief." });
  assert.equal(told.output_text, "Be brief.");
});

check("the events of a response come in order", async () => {
  const events = await collect(respond("echo: one two", { stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  assert.deepEqual(
    events.map((event) => event.type),
    [
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.completed",
    ],
  );
  assert.equal(events.at(-1).response.output[0].content[0].text, "one two");
});

// Read event by event: the helper of this package expects reasoning_summary_part.added before
// reasoning, which Ollama does not send.
check("a response's thoughts come before its text", async () => {
  const answer = await respond("think yes indeed");
  const events = await collect(respond("think yes indeed", { stream: true }));
  for (const { output } of [answer, events.at(-1).response]) {
    assert.deepEqual(output.map((item) => item.type), ["reasoning", "message"]);
    assert.equal(output[0].summary[0].text, "Let me think about it.");
    assert.equal(output[1].content[0].text, "yes indeed");
  }
  const said = (kind) => events.filter(({ type }) => type === kind).map(({ delta }) => delta);
  const thoughts = said("response.reasoning_summary_text.delta");
  assert.equal(thoughts.join(""), "Let me think about it.");
  assert.deepEqual(said("response.output_text.delta"), ["yes", " indeed"]);
});

check("the response helper gathers the text", async () => {
  const stream = client.responses.stream({ model: MODEL, input: "echo: yes indeed" });
  assert.equal((await stream.finalResponse()).output_text, "yes indeed");
});

check("a function of a response goes round, whole and streamed", async () => {
  for (const stream of [false, true]) {
    const input = user('call add {"a": 1, "b": 2}');
    const more = { tools: FLAT_TOOLS };
    const answer = stream
      ? await client.responses.stream({ model: MODEL, input, ...more }).finalResponse()
      : await respond(input, more);
    const [call] = answer.output.filter((item) => item.type === "function_call");
    assert.deepEqual([call.name, JSON.parse(call.arguments)], ["add", { a: 1, b: 2 }]);
    const output = { type: "function_call_output", call_id: call.call_id, output: "3" };
    const { output_text } = await respond([...input, ...answer.output, output], more);
    assert.equal(output_text, 'add({"a": 1, "b": 2}) = 3');
  }
});

check("a response is parsed by its schema", async () => {
  const text = { format: zodTextFormat(Person, "person") };
  const answer = await client.responses.parse({ model: MODEL, input: "Who?", text });
  assert.deepEqual(answer.output_parsed, { name: "text", age: 7 });
});

// --- Heads and errors ---

check("withResponse shows the upstream's request id", async () => {
  for (const stream of [false, true]) {
    const { response, request_id } = await chat("echo: Hi", { stream }).withResponse();
    assert.deepEqual([request_id, response.headers.get("x-request-id")], [UPSTREAM_ID, UPSTREAM_ID]);
    const kind = stream ? "text/event-stream" : "application/json";
    assert.equal(response.headers.get("content-type"), kind);
  }
  assert.equal((await chat("echo: Hi"))._request_id, UPSTREAM_ID);
  const listed = await client.models.list().withResponse();
  assert.ok(listed.request_id, "an answer of the proxy's own has an id as well");
});

check("the upstream's errors have their classes, words and ids", async () => {
  const kinds = {
    400: [OpenAI.BadRequestError, /refused on purpose/],
    401: [OpenAI.AuthenticationError, /Incorrect API key/],
    429: [OpenAI.RateLimitError, /Rate limit reached/],
    500: [OpenAI.InternalServerError, /had an error/],
  };
  for (const [status, [kind, words]] of Object.entries(kinds)) {
    for (const stream of [false, true]) {
      const error = await failure(chat(`error ${status}`, { stream }));
      assert.ok(error instanceof kind, `${status}: ${error}`);
      assert.equal(error.status, Number(status));
      assert.match(error.message, words);
      assert.equal(error.requestID, UPSTREAM_ID);
    }
  }
  assert.equal((await failure(chat("error 429"))).code, "rate_limit_exceeded");
});

check("an unknown model is a NotFoundError everywhere", async () => {
  const model = "nope";
  const requests = [
    () => chat("Hi", { model }),
    () => chat("Hi", { model, stream: true }),
    () => client.completions.create({ model, prompt: "Hi", stream: false }),
    () => client.embeddings.create({ model, input: ["Hi"], encoding_format: "float" }),
    () => respond("Hi", { model }),
    () => respond("Hi", { model, stream: true }),
  ];
  for (const request of requests) {
    const error = await failure(request());
    assert.ok(error instanceof OpenAI.NotFoundError, error);
    assert.match(error.message, /nope/);
  }
});

check("what the proxy itself refuses is a BadRequestError", async () => {
  const requests = [
    [() => chat("Hi", { model: "" }), /model is required/],
    [() => respond(7), /input must be a string or array/],
  ];
  for (const [request, words] of requests) {
    const error = await failure(request());
    assert.ok(error instanceof OpenAI.BadRequestError, error);
    assert.deepEqual([error.type, error.param, error.code], ["invalid_request_error", null, null]);
    assert.match(error.message, words);
  }
});

check("streams that fail raise or tell it after their text", async () => {
  for (const words of ["break mid", "fail mid"]) {
    let text = "";
    const reading = (async () => {
      for await (const chunk of await chat(words, { stream: true })) {
        text += chunk.choices[0].delta.content ?? "";
      }
    })();
    const error = await failure(reading);
    assert.equal(text, "Half an", words);
    assert.ok(error.message, words);
    const events = await collect(respond(words, { stream: true }));
    const last = events.at(-1);
    assert.deepEqual([last.type, last.response.status], ["response.failed", "failed"], words);
    assert.ok(last.response.error.code && last.response.error.message, words);
  }
});

check("every request obeyed the rules of the upstream", checkRules);

await run();
