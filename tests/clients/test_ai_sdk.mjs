// The AI SDK with its Ollama provider against the proxy, with the scripted upstream behind it.
import assert from "node:assert/strict";
import { embed, embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import { check, checkRules, failure, run, setting } from "./checks.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

const ollama = createOllama({ baseURL: `${setting("PROXY_URL")}/api` });
const model = ollama("scripted-1");
const embedder = ollama.embedding("scripted-embed");
const STYLES = ["", ":whole", ":noindex", ":object", ":mixed"];
const PNG = "iVBORw0KGgoAAAANSUhEUg==";

const add = tool({
  description: "Add two numbers.",
  inputSchema: z.object({ a: z.number().int(), b: z.number().int() }),
  execute: async ({ a, b }) => String(a + b),
});

const ask = (prompt, more = {}) => generateText({ model, prompt, maxRetries: 0, ...more });

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

// The provider prints lines that it cannot parse.
async function quietly(run) {
  const { warn } = console;
  console.warn = () => {};
  try {
    return await run();
  } finally {
    console.warn = warn;
  }
}

check("generateText", async () => {
  const answer = await ask("Hello there");
  assert.equal(answer.text, "You said: Hello there");
  assert.equal(answer.finishReason, "stop");
  assert.deepEqual([answer.usage.inputTokens, answer.usage.outputTokens], [2, 4]);
});

check("generateText sends system prompt, history and settings", async () => {
  assert.equal((await ask("system?", { system: "Be brief." })).text, "Be brief.");
  const messages = [
    { role: "user", content: "One" },
    { role: "assistant", content: "Two" },
    { role: "user", content: "messages?" },
  ];
  const { text } = await generateText({ model, messages });
  const expected = messages.map(({ role, content }) => [role, content]);
  assert.deepEqual(JSON.parse(text), expected);
});

check("streamText", async () => {
  const result = streamText({ model, prompt: "echo: one two three" });
  const parts = await collect(result.textStream);
  assert.ok(parts.length >= 3, `${parts.length} parts`);
  assert.equal(parts.join(""), "one two three");
  assert.equal(await result.finishReason, "stop");
  assert.equal((await result.usage).outputTokens, 3);
});

check("odd characters survive", async () => {
  const odd = "a\u2028b c\u2029d e\u0085f \u{1f600}";
  const parts = await collect(streamText({ model, prompt: `echo: ${odd}` }).textStream);
  assert.equal(parts.join(""), odd);
});

check("generateObject", async () => {
  const schema = z.object({ name: z.string(), age: z.number().int() });
  const { object } = await generateObject({ model, schema, prompt: "Who?" });
  assert.deepEqual(object, { name: "text", age: 7 });
});

check("the completion model", async () => {
  const { text } = await generateText({ model: ollama.completion("scripted-1"), prompt: "Hello" });
  // Not streamed: this provider wants `context` in every line, which Ollama does not send either.
  assert.match(text, /^You said: .*Hello/s);
});

check("embed and embedMany", async () => {
  const many = await embedMany({ model: embedder, values: ["a", "b", "c"] });
  assert.deepEqual(many.embeddings.map((vector) => vector.length), [8, 8, 8]);
  const one = await embed({ model: embedder, value: "b" });
  assert.deepEqual(one.embedding, many.embeddings[1]);
});

check("errors are told with their status", async () => {
  const error = await failure(ask("error 429"));
  assert.equal(error.statusCode, 429);
  assert.equal(JSON.parse(error.responseBody).error, "Rate limit reached for scripted-1.");
  assert.equal((await failure(ask("Hello", { model: ollama("nope") }))).statusCode, 404);
});

check("a broken stream does not look complete", () =>
  quietly(async () => {
    const result = streamText({ model, prompt: "fail mid", maxRetries: 0, onError: () => {} });
    const parts = await collect(result.fullStream);
    const text = parts.filter((part) => part.type === "text-delta").map((part) => part.text);
    assert.equal(text.join(""), "Half an");
    // This provider drops unknown lines, so the only sign of the error is the missing end.
    assert.notEqual(await result.finishReason, "stop");
  }),
);

check("tool calls arrive and results find them", async () => {
  for (const style of STYLES) {
    const prompt = `call${style} add {"a": 1, "b": 2}`;
    const answer = await ask(prompt, { tools: { add }, stopWhen: stepCountIs(3) });
    assert.equal(answer.text, 'add({"a": 1, "b": 2}) = 3', style);
    assert.equal(answer.steps.length, 2);
  }
});

check("streamed tool calls arrive and results find them", async () => {
  for (const style of STYLES) {
    const prompt = `calls${style} 3`;
    const result = streamText({ model, prompt, tools: { add }, stopWhen: stepCountIs(3) });
    const text = await result.text;
    const values = text.split("; ").map((part) => part.split(" = ")[1]);
    assert.deepEqual(values, ["0", "2", "4"], `${style}: ${text}`);
  }
});

check("reasoning is told apart from the answer", async () => {
  const providerOptions = { ollama: { think: true } };
  for (const style of ["", ":short", ":inline"]) {
    const prompt = `think${style} forty two`;
    const answer = await ask(prompt, { providerOptions });
    assert.equal(answer.text, "forty two", style);
    assert.equal(answer.reasoningText.trim(), "Let me think about it.", style);
    const result = streamText({ model, prompt, providerOptions });
    assert.equal(await result.text, "forty two", style);
    assert.equal((await result.reasoningText).trim(), "Let me think about it.", style);
  }
});

check("an image is sent with its type", async () => {
  const content = [
    { type: "text", text: "images?" },
    { type: "image", image: PNG, mediaType: "image/jpeg" },
  ];
  const { text } = await generateText({ model, messages: [{ role: "user", content }] });
  assert.deepEqual(JSON.parse(text), ["image/png"]);
});

check("every request obeyed the rules of the upstream", checkRules);

await run();
