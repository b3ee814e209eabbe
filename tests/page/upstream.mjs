// A scripted OpenAI-compatible server for the tests of the status page.
import http from "node:http";

const choice = (delta, finish) => ({ index: 0, delta, finish_reason: finish ?? null });
const chunk = (delta, finish) => ({ id: "c", object: "chat.completion.chunk", model: "m", choices: [choice(delta, finish)] });
const usage = { id: "c", object: "chat.completion.chunk", model: "m", choices: [], usage: { prompt_tokens: 11, completion_tokens: 3 } };

/** A promise that others fulfil. */
export function gate() {
  let open;
  const opened = new Promise((resolve) => { open = resolve; });
  return { open, opened };
}

/** Serves models, and answers by the last message of a conversation. */
export class Upstream {
  /** Whether connections are closed at once. */
  isDead = false;
  /** What `hold` waits for before each of its further pieces. */
  gates = [];
  /** Fulfilled when the client of `endless` leaves. */
  left = gate();

  constructor(models) {
    this.models = models;
    this.server = http.createServer((request, response) => this.#answer(request, response));
    this.server.on("connection", (socket) => { if (this.isDead) socket.destroy(); });
  }

  async start() {
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}/v1`;
    return this;
  }

  /** Closes what is open, and each new connection. */
  die() {
    this.isDead = true;
    this.server.closeAllConnections();
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }

  async #answer(request, response) {
    let body = "";
    for await (const piece of request) body += piece;
    response.setHeader("Content-Type", "application/json");
    if (request.url.endsWith("/models")) {
      return response.end(JSON.stringify({ object: "list", data: this.models.map((id) => ({ id, object: "model" })) }));
    }
    if (!request.url.endsWith("/chat/completions")) {
      response.statusCode = 404;
      return response.end(JSON.stringify({ error: { message: "not found" } }));
    }
    const asked = JSON.parse(body);
    if ("temperature" in asked) {
      response.statusCode = 400;
      const message = "Unsupported parameter: 'temperature' is not supported with this model.";
      return response.end(JSON.stringify({ error: { message, type: "invalid_request_error", param: "temperature", code: "unsupported_parameter" } }));
    }
    response.setHeader("Content-Type", "text/event-stream");
    const send = (value) => response.write(`data: ${JSON.stringify(value)}\n\n`);
    await this.#script(asked.messages.at(-1).content, send, response);
    for (const last of [chunk({}, "stop"), usage]) send(last);
    response.end("data: [DONE]\n\n");
  }

  async #script(text, send, response) {
    switch (text) {
      case "think":
        send(chunk({ reasoning_content: "Let me see." }));
        return send(chunk({ content: "An answer." }));
      case "hold":
        send(chunk({ content: "one" }));
        for (const [i, { opened }] of this.gates.entries()) {
          await opened;
          send(chunk({ content: [" two", " three"][i] }));
        }
        return undefined;
      case "endless":
        send(chunk({ content: "begun" }));
        response.on("close", this.left.open);
        return new Promise(() => {});
      default:
        send(chunk({ content: "Hello" }));
        return send(chunk({ content: " there." }));
    }
  }
}
