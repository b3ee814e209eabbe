// Vercel's AI SDK with the provider of each protocol.
import { KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE } from "./given.mjs";

import { stepCountIs, streamText, generateText, tool } from "ai";
import { z } from "zod";

const [wire, whole] = WIRE.split("-");

async function model() {
  if (wire === "ollama") {
    const { createOllama } = await import("ai-sdk-ollama");
    return createOllama({ baseURL: PROXY })(MODEL);
  }
  if (wire === "anthropic") {
    const { createAnthropic } = await import("@ai-sdk/anthropic");
    return createAnthropic({ baseURL: `${PROXY}/v1`, apiKey: KEY })(MODEL);
  }
  if (wire === "compatible") {
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    return createOpenAICompatible({ name: "proxy", baseURL: `${PROXY}/v1`, apiKey: KEY })(MODEL);
  }
  const { createOpenAI } = await import("@ai-sdk/openai");
  const provider = createOpenAI({ baseURL: `${PROXY}/v1`, apiKey: KEY });
  return wire === "responses" ? provider.responses(MODEL) : provider.chat(MODEL);
}

const tools = {};
for (const { name, description, members, run } of TOOLS) {
  const inputSchema = z.object(Object.fromEntries(members.map((each) => [each, z.string()])));
  tools[name] = tool({ description, inputSchema, execute: run });
}
const request = { model: await model(), system: SYSTEM, prompt: PROMPT, tools, stopWhen: stepCountIs(20) };
if (whole) {
  console.log((await generateText(request)).text);
} else {
  let failure;
  const answer = streamText({
    ...request,
    onError: ({ error }) => {
      failure = error;
    },
  });
  for await (const text of answer.textStream) process.stdout.write(text);
  console.log();
  if (failure) throw failure;
}
