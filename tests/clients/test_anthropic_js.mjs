// Anthropic's own JavaScript client against the proxy, with the scripted upstream behind it.
// tests/clients/run.py sets their addresses, PROXY_URL and UPSTREAM_URL.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { z } from "zod";
import { check, checkRules, failure, forget, journal, run, setting } from "./checks.mjs";

const PROXY = setting("PROXY_URL");
const MODEL = "scripted-1";
const THOUGHT = "Let me think about it.";
const number = { type: "integer" };
const input_schema = { type: "object", properties: { a: number, b: number }, required: ["a", "b"] };
const TOOLS = [{ name: "add", description: "Add two numbers.", input_schema }];
const THINKING = { thinking: { type: "enabled", budget_tokens: 1024 }, max_tokens: 2000 };
const PNG = "iVBORw0KGgo=";

const client = new Anthropic({ baseURL: PROXY, apiKey: "theirs", maxRetries: 0 });

const user = (content) => [{ role: "user", content }];
const asked = (content, more = {}) => ({
  model: MODEL,
  max_tokens: 100,
  messages: typeof content === "string" ? user(content) : content,
  ...more,
});
const create = (content, more) => client.messages.create(asked(content, more));
const kinds = (message) => message.content.map((block) => block.type);
const textOf = (message) =>
  message.content.map((block) => (block.type === "text" ? block.text : "")).join("");
const say = async (content, more) => textOf(await create(content, more));

// The last body that went upstream.
async function sent() {
  return (await journal()).findLast((entry) => entry.body).body;
}

check("a whole message with usage", async () => {
  const message = await create("Hello there");
  assert.deepEqual(message.content, [{ type: "text", text: "You said: Hello there" }]);
  assert.deepEqual([message.type, message.role, message.model], ["message", "assistant", MODEL]);
  assert.equal(message.stop_reason, "end_turn");
  assert.deepEqual([message.usage.input_tokens, message.usage.output_tokens], [2, 4]);
  assert.match(message.id, /^msg_[0-9a-f]{24}$/);
  assert.equal(await say("Hi", { model: `${MODEL}:latest` }), "You said: Hi");
  assert.equal((await sent()).model, MODEL);
});

check("a stream gathers the same message", async () => {
  const stream = client.messages.stream(asked("slow 4 x"));
  const texts = [];
  stream.on("text", (delta) => texts.push(delta));
  const message = await stream.finalMessage();
  assert.deepEqual(texts, ["x0", " x1", " x2", " x3"]);
  assert.equal(textOf(message), "x0 x1 x2 x3");
  assert.equal(message.stop_reason, "end_turn");
  assert.deepEqual([message.usage.input_tokens, message.usage.output_tokens], [3, 4]);
});

check("the events of a stream come in Anthropic's order", async () => {
  const types = [];
  for await (const event of await create("echo: Hi", { stream: true })) types.push(event.type);
  const block = ["content_block_start", "content_block_delta", "content_block_stop"];
  assert.deepEqual(types, ["message_start", ...block, "message_delta", "message_stop"]);
});

check("system prompts and parameters arrive", async () => {
  const cache_control = { type: "ephemeral" };
  const blocks = [
    { type: "text", text: "Be brief.", cache_control },
    { type: "text", text: "Be kind." },
  ];
  assert.equal(await say("system?", { system: blocks }), "Be brief.\n\nBe kind.");
  assert.equal(await say("system?", { system: "Be kind." }), "Be kind.");
  const more = { stop_sequences: ["END"], temperature: 0.5, top_p: 0.9 };
  const wanted = { max_tokens: 100, stop: ["END"], temperature: 0.5, top_p: 0.9 };
  assert.deepEqual(JSON.parse(await say("params?", more)), wanted);
});

check("a limit is told", async () => {
  assert.equal((await create("length")).stop_reason, "max_tokens");
  const short = await create("echo: one two three", { max_tokens: 2 });
  assert.deepEqual([textOf(short), short.stop_reason], ["one two", "max_tokens"]);
});

check("a tool goes round, whole and streamed", async () => {
  for (const stream of [false, true]) {
    const messages = user('call add {"a": 2, "b": 3}');
    const request = asked(messages, { tools: TOOLS, tool_choice: { type: "tool", name: "add" } });
    const message = stream
      ? await client.messages.stream(request).finalMessage()
      : await client.messages.create(request);
    assert.equal(message.stop_reason, "tool_use");
    const named = { type: "function", function: { name: "add" } };
    assert.deepEqual((await sent()).tool_choice, named);
    const [{ type, id, name, input }] = message.content;
    assert.deepEqual([type, name, input], ["tool_use", "add", { a: 2, b: 3 }]);
    messages.push({ role: "assistant", content: message.content });
    messages.push(...user([{ type: "tool_result", tool_use_id: id, content: "5" }]));
    assert.equal(await say(messages, { tools: TOOLS }), 'add({"a": 2, "b": 3}) = 5');
  }
});

check("several calls come in blocks of their own", async () => {
  const message = await client.messages.stream(asked("calls 3", { tools: TOOLS })).finalMessage();
  assert.deepEqual(kinds(message), ["tool_use", "tool_use", "tool_use"]);
  assert.equal(new Set(message.content.map((block) => block.id)).size, 3);
  const results = message.content.map(({ id, input }) => ({
    type: "tool_result",
    tool_use_id: id,
    content: [{ type: "text", text: String(input.a + input.b) }],
  }));
  const turn = { role: "assistant", content: message.content };
  const text = await say([...user("calls 3"), turn, ...user(results)], { tools: TOOLS });
  const values = text.split("; ").map((part) => part.split(" = ")[1]);
  assert.deepEqual(values, ["0", "2", "4"]);
});

// Without `thread: false` the loop expects the server to store the conversation.
check("the package's own tool loop runs to its end", async () => {
  const add = betaZodTool({
    name: "add",
    description: "Add two numbers.",
    inputSchema: z.object({ a: z.number().int(), b: z.number().int() }),
    run: ({ a, b }) => String(a + b),
  });
  for (const stream of [false, true]) {
    const more = { tools: [add], max_iterations: 3, thread: false, stream };
    const request = asked('call add {"a": 4, "b": 5}', more);
    const message = await client.beta.messages.toolRunner(request);
    assert.equal(textOf(message), 'add({"a": 4, "b": 5}) = 9', `stream: ${stream}`);
  }
});

check("a failed result says that it failed", async () => {
  const call = { type: "tool_use", id: "toolu_1", name: "add", input: { a: 1, b: 1 } };
  const result = { type: "tool_result", tool_use_id: "toolu_1", content: "No.", is_error: true };
  const messages = [...user("Hi"), { role: "assistant", content: [call] }, ...user([result])];
  assert.equal(await say(messages, { tools: TOOLS }), 'add({"a": 1, "b": 1}) = Error: No.');
});

check("images arrive", async () => {
  const image = { type: "image", source: { type: "base64", media_type: "image/png", data: PNG } };
  const text = await say(user([image, { type: "text", text: "images?" }]));
  assert.deepEqual(JSON.parse(text), ["image/png"]);
});

check("thoughts come in a block of their own", async () => {
  const message = await create("think echo", THINKING);
  assert.deepEqual(kinds(message), ["thinking", "text"]);
  assert.deepEqual([message.content[0].thinking, textOf(message)], [THOUGHT, "echo"]);
  const stream = client.messages.stream(asked("think echo", THINKING));
  const thoughts = [];
  stream.on("thinking", (delta) => thoughts.push(delta));
  const final = await stream.finalMessage();
  assert.deepEqual(kinds(final), ["thinking", "text"]);
  assert.deepEqual([thoughts.join(""), final.content[0].thinking], [THOUGHT, THOUGHT]);
  const hidden = await create("think echo", { thinking: { type: "disabled" } });
  assert.deepEqual(kinds(hidden), ["text"]);
  const turn = { role: "assistant", content: message.content };
  assert.equal(await say([...user("Hi"), turn, ...user("echo: fine")]), "fine");
});

check("tokens are counted", async () => {
  const request = { model: MODEL, messages: user("x".repeat(40)), system: "s".repeat(40) };
  assert.equal((await client.messages.countTokens(request)).input_tokens, 20);
});

check("leaving a stream ends it at the upstream", async () => {
  await forget();
  const stream = client.messages.stream(asked("slow 500 left", { max_tokens: 900 }));
  stream.on("text", () => stream.abort());
  assert.ok((await failure(stream.finalMessage())) instanceof Anthropic.APIUserAbortError);
  let states = [];
  for (let tries = 0; tries < 100; tries += 1) {
    states = (await journal()).map((entry) => entry.state);
    if (states[0] === "aborted") break;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.deepEqual(states, ["aborted"]);
});

check("errors have their classes and their shape", async () => {
  const wanted = {
    400: [Anthropic.BadRequestError, "invalid_request_error", /refused on purpose/],
    401: [Anthropic.AuthenticationError, "authentication_error", /API key/],
    429: [Anthropic.RateLimitError, "rate_limit_error", /Rate limit reached/],
    500: [Anthropic.InternalServerError, "api_error", /had an error/],
  };
  for (const [status, [kind, type, words]] of Object.entries(wanted)) {
    for (const stream of [false, true]) {
      const error = await failure(create(`error ${status}`, { stream }));
      assert.ok(error instanceof kind, `${status}: ${error}`);
      assert.equal(error.status, Number(status));
      assert.deepEqual([error.error.type, error.error.error.type], ["error", type]);
      assert.match(error.error.error.message, words);
    }
  }
});

check("what the proxy itself refuses is told in the same shape", async () => {
  const missing = await failure(create("Hi", { model: "nobody" }));
  assert.ok(missing instanceof Anthropic.NotFoundError, missing);
  const { type, message } = missing.error.error;
  assert.deepEqual([type, message], ["not_found_error", "model: nobody"]);
  const refused = await failure(create("Hi", { max_tokens: 0 }));
  assert.ok(refused instanceof Anthropic.BadRequestError, refused);
  assert.match(refused.message, /max_tokens is required and must be positive/);
  const empty = await failure(create([]));
  assert.match(empty.message, /messages is required/);
});

check("streams that fail raise after their text", async () => {
  for (const words of ["break mid", "fail mid"]) {
    const stream = client.messages.stream(asked(words));
    let text = "";
    stream.on("text", (delta) => (text += delta));
    const error = await failure(stream.finalMessage());
    assert.ok(error instanceof Anthropic.APIError, error);
    assert.equal(text, "Half an", words);
    if (words === "fail mid") assert.match(error.message, /The model gave up\./);
  }
});

check("every request obeyed the rules of the upstream", checkRules);

await run();
