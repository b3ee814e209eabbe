// The tool runner of Anthropic's SDK for JavaScript.
import { KEY, MODEL, PROMPT, PROXY, SYSTEM, TOOLS, WIRE } from "./given.mjs";

import { default as Anthropic } from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";

const tools = TOOLS.map(({ name, description, members, run }) => {
  const properties = Object.fromEntries(members.map((each) => [each, { type: "string" }]));
  return betaTool({ name, description, run, inputSchema: { type: "object", properties, required: members } });
});
const client = new Anthropic({ baseURL: PROXY, apiKey: KEY });
const stream = WIRE === "stream";
const runner = client.beta.messages.toolRunner({
  model: MODEL,
  max_tokens: 20000,
  system: SYSTEM,
  messages: [{ role: "user", content: PROMPT }],
  tools,
  stream,
});
for await (const each of runner) {
  const message = stream ? await each.finalMessage() : each;
  console.log(message.content.map((block) => block.text ?? "").join(""));
}
