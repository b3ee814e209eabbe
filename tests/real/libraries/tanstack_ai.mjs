// TanStack AI over Ollama's own API.
import { MODEL, PROMPT, PROXY, SYSTEM, TOOLS } from "./given.mjs";

import { chat, maxIterations } from "@tanstack/ai";
import { createOllamaChat } from "@tanstack/ai-ollama";

const tools = TOOLS.map(({ name, description, members, run }) => {
  const properties = Object.fromEntries(members.map((each) => [each, { type: "string" }]));
  const inputSchema = { type: "object", properties, required: members };
  return { name, description, inputSchema, execute: async (given) => ({ result: run(given) }) };
});
const stream = chat({
  adapter: createOllamaChat(MODEL, PROXY),
  systemPrompts: [SYSTEM],
  messages: [{ role: "user", content: PROMPT }],
  tools,
  agentLoopStrategy: maxIterations(20),
});
for await (const event of stream) {
  if (event.type === "RUN_ERROR") throw new Error(JSON.stringify(event));
  if (event.type === "TEXT_MESSAGE_CONTENT") process.stdout.write(event.delta);
}
console.log();
